//! A statement with a description for errors and events.

/// The seed of the operator's advisory locks, which keeps them apart from those of others.
pub(super) const LOCK_SEED: i64 = 0x6865_6467_6572_6f77;

/// One statement.
#[derive(Debug, Clone)]
pub(super) struct Step {
    verb: Verb,
    object: String,
    pub(super) sql: String,
}

/// A verb in the infinitive and the past tense.
type Verb = (&'static str, &'static str);

pub(super) const CREATE: Verb = ("create", "created");
pub(super) const DROP: Verb = ("drop", "dropped");
pub(super) const GRANT: Verb = ("grant", "granted");
pub(super) const REVOKE: Verb = ("revoke", "revoked");
pub(super) const SET: Verb = ("set", "set");

impl Step {
    pub(super) fn new(verb: Verb, object: String, sql: String) -> Self {
        Self { verb, object, sql }
    }

    /// The description for errors: `create role "x"`.
    pub(super) fn action(&self) -> String {
        format!("{} {}", self.verb.0, self.object)
    }

    /// The description for events: `created role "x"`.
    pub(super) fn change(&self) -> String {
        format!("{} {}", self.verb.1, self.object)
    }
}
