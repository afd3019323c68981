//! Helpers for integration tests: services started inside the test or as separate processes, raw connections, a trace
//! collector, mock API servers and clusters, and waiting for conditions.

pub mod admission;
#[cfg(feature = "api-server")]
pub mod api_server;
pub mod app;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod collector;
pub mod inventory;
pub mod plans;
pub mod port;
pub mod process;
pub mod raw;
pub mod rules;
