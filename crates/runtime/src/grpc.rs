//! gRPC for processes without a gRPC framework: how a call is recognized, and problems as statuses.

mod media_type;
mod status;

pub use media_type::{has_message_framing, is_call};
pub use status::GrpcStatus;
