//! The gateway's HTTP/1.1 client.
//!
//! A connection has no task of its own: the task that waits for the response head or reads the body drives it, so each
//! request wakes one task. A connection has buffers only while it has a request, so an idle one needs next to no
//! memory.

mod connection;
mod error;
mod request;
mod response;

pub(super) use connection::Connection;
pub(crate) use error::Error;
pub(super) use error::{Deadlines, SendError};
