//! Batching: requests that arrive while a batch is in flight share the next one, or join the current one if its handler
//! allows it. There is no artificial delay; under light load a batch is a single request.

mod batcher;
mod handler;

pub use batcher::{BatchError, Batcher};
pub use handler::{Arrivals, Handler, OpenHandler, split};
