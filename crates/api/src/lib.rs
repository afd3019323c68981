//! The `Microservice` kind: what a user writes, and what the operator answers.
//!
//! The documentation of a field is its description in `kubectl explain`, so it is written for a reader who knows
//! Kubernetes and no Rust. Unknown fields are not refused here but by the schema: the operator must go on reading
//! objects that have a field more than it knows, as after a downgrade.

#![allow(clippy::doc_markdown, reason = "`kubectl explain` shows backticks as they are")]

mod admission;
pub mod annotations;
pub mod crd;
mod database;
mod file;
mod network;
mod schema;
mod spec;
mod status;

pub use admission::{Refused, admit};
pub use database::{Database, DeletionPolicy};
pub use file::{FileError, parse};
pub use network::{DEFAULT_GRPC_PORT, Network, Peer, Ports, Route, Service, ServiceType, grpc_url_variable};
pub use spec::{Microservice, MicroserviceSpec, Scaling};
pub use status::{DatabaseStatus, MicroserviceStatus};
