//! What every Hedgerow service shares: configuration, start and stop, the HTTP server, gRPC both ways, health, metrics,
//! logs and traces, `problem+json`, the database pool and its migrations, paging.
//!
//! A service is a [`Service`] value: a name, its migrations and a function that builds its routes.
//! [`main`] turns it into a process that keeps the contract of `docs/ARCHITECTURE.md`.

mod admin;
pub mod alarm;
pub mod batch;
pub mod chunked;
mod cli;
mod conditional;
mod current;
pub mod database;
mod fields;
pub mod grpc;
mod health;
mod json;
mod life;
pub mod metrics;
mod migrate;
pub mod observe;
mod openapi;
mod page;
mod path;
mod percent;
mod problem;
pub mod process;
mod query;
pub mod server;
mod service;
pub mod telemetry;

pub use admin::{Check, Checks, serve_admin};
pub use cli::ServeArgs;
pub use conditional::{IfMatch, Tagged};
pub use current::TRACEPARENT;
pub use database::{Database, DatabaseUrl};
pub use fields::{Fields, FromFields, Json};
pub use life::{Life, Phase};
pub use openapi::page_file;
pub use page::{Limit, Page};
pub use path::Path;
pub use problem::{FieldError, Problem, ProblemBody};
pub use process::Running;
pub use query::Query;
pub use server::{CLIENT_IDLE_TIMEOUT, HEADER_READ_TIMEOUT};
pub use service::{Context, Service, main};
