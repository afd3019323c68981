//! What `migrate` reports to the operator, in its exit status and its termination message.

use serde::{Deserialize, Serialize};

/// The exit status if the database is unreachable and a retry may help (`EX_TEMPFAIL` in sysexits.h).
pub const UNREACHABLE: u8 = 75;

/// The termination message of a successful migration, as JSON: `{"schemaVersion": 3}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Migrated {
    /// The version of the schema; 0 if there are no migrations.
    pub schema_version: i64,
}
