//! What every Hedgerow process needs, whether it is a service, the gateway or the operator: the lifecycle from start to
//! drain, an HTTP server, an admin port, logs, traces, metrics, and errors as `application/problem+json`.
//!
//! It also has what services must agree on with the gateway or the operator: how a gRPC call is recognized ([`grpc`]),
//! how `HOST:PORT` is parsed ([`authority`]) and what a migration reports ([`migration`]).
//!
//! This crate does not depend on a database driver, a gRPC framework or OpenAPI. A service with an API and a database
//! builds on `chassis`.
//!
//! A process binds its listeners, then serves until a signal arrives:
//!
//! ```no_run
//! use std::{process::ExitCode, sync::Arc};
//!
//! use axum::{Router, routing::get};
//! use clap::Parser;
//! use runtime::{
//!     Checks, metrics,
//!     process::{self, Bound, ProcessArgs},
//!     server::Server,
//! };
//!
//! #[derive(Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     process: ProcessArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     let Cli { process: args } = Cli::parse();
//!     let start = async || {
//!         let bound = Bound::new(&args)?;
//!         let lifecycle = bound.lifecycle().clone();
//!         let checks = Checks { live: Arc::new(|| Ok(())), ready: Arc::new(move || lifecycle.is_serving()) };
//!         let app = Router::new().route("/", get(async || "hello"));
//!         Ok(bound.start(Server::default(), app, checks, metrics::registry("1.0.0")?))
//!     };
//!     process::run("hello", &args.log_level, None, async || process::serve("hello", start).await)
//! }
//! ```

pub mod admin;
pub mod authority;
pub mod chunked;
pub mod grpc;
mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod migration;
pub mod percent;
mod problem;
pub mod process;
pub mod request;
pub mod server;
pub mod stdout;
pub mod telemetry;
mod timer;

pub use admin::{Check, Checks, serve_admin};
pub use lifecycle::{Lifecycle, Phase};
pub use problem::{Cause, FieldError, MAX_ERRORS, Problem, ProblemBody, panic_text};
pub use process::Running;
pub use request::TRACEPARENT;
pub use server::{CLIENT_IDLE_TIMEOUT, REQUEST_HEAD_TIMEOUT};
pub use timer::ReusableTimer;
