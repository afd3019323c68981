//! The operator: turns one short `Microservice` into a running, scaled, observed service with a database of its own.

pub mod build;
mod cli;
mod controller;
mod crd;
pub mod database;
mod lease;
mod manifests;
mod metrics;
mod render;
mod run;
mod values_schema;

pub use cli::main;
