//! The operator: turns a `Microservice` object into a running, autoscaled service, optionally with a
//! database of its own.

mod auth;
mod chart;
mod cli;
mod controller;
mod crd;
pub mod database;
mod install;
mod leadership;
mod lease;
pub mod manifests;
mod metrics;
mod render;
mod run;

pub use cli::main;

/// The name of the program, in messages and logs.
const NAME: &str = "operator";
