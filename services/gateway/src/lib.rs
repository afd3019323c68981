//! The gateway: one front door for all services.
//!
//! `discovery` finds out which services there are, `proxy` sends each request to one of their endpoints, `policy` is
//! what the gateway does to a request besides, and `documents` shows the APIs of all services on one page.

mod access_log;
mod cli;
mod discovery;
mod documents;
mod metrics;
mod policy;
mod proxy;
mod services;

pub use cli::main;
