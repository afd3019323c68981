//! The framework for a service with an API and a database: HTTP with OpenAPI, a Postgres pool with migrations, gRPC in
//! both directions, batching, and the bootstrap of the process.
//!
//! A service is a [`Service`] value, and [`main`] turns it into a process with the commands `serve`, `migrate` and
//! `openapi`. This is a complete service, in `examples/notes`:
//!
//! ```no_run
#![doc = include_str!("../examples/notes/main.rs")]
//! ```
//!
//! What every process needs, whether or not it is a service, is in `runtime`.

mod allow_from;
mod authenticate;
pub mod batch;
mod cli;
pub mod database;
pub mod grpc;
pub mod http;
pub mod idempotency;
mod identity;
mod limits;
mod on_behalf;
mod refusals;
mod service;
mod unsent;

pub use self::http::{Fields, FromFields, Json, Limit, Page, Path, Preconditions, Query, Tagged};
pub use self::identity::Identity;
pub use ::identity::{AuthArgs, Caller, Refusal};
pub use allow_from::AllowFrom;
pub use cli::{DatabaseUrl, ServeArgs};
pub use database::Database;
pub use runtime::{
    FieldError, Problem, ProblemBody, Running, process,
    request::{LogLimit, chain},
};
pub use service::{Context, Service, main};
