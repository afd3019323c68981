//! gRPC in both directions: a server on its own port, with health, reflection, metrics and traces, and channels to the
//! peers that a service calls.

mod call;
mod client;
mod encoded;
mod metrics;
mod observe;
mod recorded;
mod server;
mod status;
mod timeout;

pub use client::{Channel, PeerUrl, read};
pub use server::Grpc;
pub use status::status;

pub(crate) use client::Peers;
pub(crate) use server::app;

/// The maximum length of a message, in bytes. A service sets it on its servers (`max_decoding_message_size`). A list of
/// 200 product ids of maximum length fits.
pub const MESSAGE_LIMIT: usize = 256 * 1024;
