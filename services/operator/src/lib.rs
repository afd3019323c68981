//! The operator: turns a `Microservice` object into a running, autoscaled service, optionally with a
//! database of its own.

mod chart;
mod cli;
mod controller;
mod crd;
pub mod database;
mod exit;
mod install;
mod lease;
pub mod manifests;
mod metrics;
mod render;
mod run;

pub use cli::main;
