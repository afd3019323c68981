//! `/oauth2`: tokens for clients of any kind (RFC 6749), and their revocation (RFC 7009).

mod client;
mod error;
mod form;
pub(super) mod revoke;
pub(super) mod token;
