//! The verifier against hostile tokens and faulty issuers.

mod accepted;
mod hostile;
mod issuers;
mod key_sets;
mod never_panics;
mod support;
