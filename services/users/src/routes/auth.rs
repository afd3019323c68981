//! `/auth`: logins, sessions, passwords and clients.

pub(super) mod clients;
pub(super) mod login;
pub(super) mod me;
pub(super) mod password;
pub(super) mod revoked;
pub(super) mod sessions;
