//! The gateway: one front door for all services.
//!
//! `discovery` finds out which services there are, `proxy` sends each request to one of their endpoints, `policy` is
//! how the gateway treats requests and responses on the way, and `openapi` shows the APIs of all services on one page.

mod access_log;
mod cli;
mod discovery;
mod metrics;
mod openapi;
mod policy;
mod proxy;
mod services;

pub use cli::main;
