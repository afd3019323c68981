//! Who sends a request: verifies the access tokens of several issuers, and has what an issuer needs to sign tokens and
//! to keep its keys.
//!
//! A [`Verifier`] turns the `Authorization` header of a request into an [`Identity`] or a [`Refusal`]. What the caller
//! may do is judged on each request by the process itself, from the [`Caller`]'s scopes, roles and subject.
//!
//! # Which tokens are accepted
//! - A JWT (RFC 7519) in compact form of at most 8 KiB, with strict base64url, whose header has no `crit`.
//! - Of a configured issuer: `iss` and `aud` match exactly.
//! - Signed with a key of that issuer, RS256, PS256, ES256 or EdDSA. The algorithm is the key's; a header that names
//!   another one is refused.
//! - `exp` is there and not past, `nbf` and `iat` are not ahead, with 30 s for clocks that differ.
//! - An access token by its type, `at+jwt` (RFC 9068). Of an issuer that is configured to use another type, ID tokens
//!   are told apart by the claims that only they have: `nonce`, `at_hash`, `c_hash` and `s_hash`.
//!
//! # Keys
//! The keys of an issuer are read at the start, every five minutes, and when a token names one that is not known, at
//! most once in 30 s by one request for all that wait. While the issuer is away, or what it publishes is invalid, the
//! last good keys stay.
//!
//! # Why not a library for JWT
//! The cryptography is aws-lc-rs. The rest is two JSON documents, and the libraries that were considered choose the
//! verifier by the header of the token, parse an RSA key for each token, and are lenient where this must be strict.

mod args;
mod caller;
mod claims;
mod config;
mod issuer;
mod key;
mod memory;
mod metrics;
mod refusal;
pub mod seal;
pub mod sign;
mod source;
#[cfg(test)]
mod tests;
mod token;
mod verifier;

pub use args::{AuthArgs, DEFAULT_AUDIENCE, Mode};
pub use caller::{ADMIN, Caller, Identity, Scopes, USER, role_scopes};
pub use config::{IssuerConfig, Kind, Mapping, OneOrMany, parse as parse_issuers};
pub use key::Algorithm;
pub use refusal::{Reason, Refusal};
pub use verifier::Verifier;
