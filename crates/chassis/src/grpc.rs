//! gRPC, both ways: a second listener for a service that has an API for its peers, with health, reflection, metrics and
//! traces; and channels to the peers that a service calls.

mod call;
mod client;
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

/// The longest message that a service takes, in bytes; each sets it on the servers it makes
/// (`max_decoding_message_size`). A list of 200 product ids of the longest kind fits.
pub const MESSAGE_LIMIT: usize = 256 * 1024;
