//! What the services' integration tests share: a service started in the test's process or as a process of its own,
//! and waiting for conditions.

#[cfg(feature = "api-server")]
pub mod api_server;
pub mod app;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod collector;
pub mod inventory;
#[cfg(feature = "kind")]
pub mod kind;
pub mod port;
pub mod process;
pub mod raw;
pub mod rules;
