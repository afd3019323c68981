//! The tools, against a small server that misbehaves as told.

mod load;
mod probe;
mod relay;
mod serve;
mod server;
