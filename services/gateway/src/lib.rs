//! The API gateway, through which all services are reached.
//!
//! `discovery` finds the services, `auth` decides who may send which requests to them, `proxy` passes each request to
//! one of their endpoints, `policy` decides what else happens to requests and responses (headers, limits, CORS,
//! compression), and `openapi` merges the API documents of all services.

mod access_log;
mod auth;
mod cli;
mod discovery;
mod metrics;
mod openapi;
mod policy;
mod protocol;
mod proxy;

pub use cli::main;
