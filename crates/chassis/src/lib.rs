//! What a service with an API and a database needs: the HTTP side, the Postgres pool and its migrations, gRPC in both
//! directions, batches, and one bootstrap.
//!
//! A service is a [`Service`] value: a name, its migrations and a function that builds its routes. [`main`] turns it
//! into a process. What every process needs, whether or not it is a service, is in `runtime`.

pub mod batch;
mod cli;
pub mod database;
pub mod grpc;
pub mod http;
mod limits;
mod service;

pub use self::http::{Fields, FromFields, IfMatch, Json, Limit, Page, Path, Query, Tagged};
pub use cli::ServeArgs;
pub use database::{Database, DatabaseUrl};
pub use runtime::{FieldError, Problem, ProblemBody, Running, process};
pub use service::{Context, Service, main};
