//! The types of the kind, and what follows from them.

mod admission;
pub mod crd;
mod database;
mod file;
mod network;
pub(crate) mod schema;
mod spec;
mod status;

pub use admission::{Refused, admit};
pub use database::{Database, DeletionPolicy};
pub use file::{FileError, parse};
pub use network::{Network, Peer, Ports, Route, Service, ServiceType};
pub use spec::{Microservice, MicroserviceSpec, Scaling};
pub use status::{DatabaseStatus, MicroserviceStatus};
