//! Tests the tools against a small server that misbehaves on request.

mod load;
mod probe;
mod relay;
mod serve;
mod server;
