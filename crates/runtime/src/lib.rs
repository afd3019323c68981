//! What every Hedgerow process needs, whether it is a service, the gateway or the operator: its lifecycle from start to
//! drain, the HTTP server, the admin port, logs, traces, metrics, and errors as `problem+json`.
//!
//! It knows no database, no gRPC framework and no OpenAPI. A service with an API and a database builds on `chassis`.

pub mod admin;
pub mod chunked;
mod grpc;
mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod percent;
mod problem;
pub mod process;
pub mod request;
pub mod server;
pub mod telemetry;
mod timer;

pub use admin::{Check, Checks, serve_admin};
pub use grpc::GrpcStatus;
pub use lifecycle::{Lifecycle, Phase};
pub use problem::{Cause, FieldError, Problem, ProblemBody};
pub use process::Running;
pub use request::TRACEPARENT;
pub use server::{CLIENT_IDLE_TIMEOUT, HEADER_READ_TIMEOUT};
pub use timer::ReusableTimer;
