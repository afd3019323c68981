//! Who may do what: callers with and without tokens, over HTTP and gRPC, in both modes.

mod issuer;
mod keys;
mod owners;
mod services;
mod table;
