//! The ledger of a product.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Why stock was adjusted; at most 200 characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 200, pattern = r"^[^\u0000]*$", examples("damaged"))]
pub(crate) struct Reason(String);

impl Reason {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.chars().count() {
            201.. => Err("must have at most 200 characters"),
            _ if text.contains('\0') => Err("must not contain a NUL character"),
            _ => Ok(Self(text)),
        }
    }
}

/// One entry in a product's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Movement {
    pub(crate) product_id: String,
    /// The movement's number. Each movement of a product takes the next number; one of kind `expire` takes as many
    /// numbers as it has `holds`, and has the last of them. One of kind `opening` has the number of the last movement
    /// that it stands for.
    #[schema(minimum = 1)]
    pub(crate) version: i64,
    #[schema(value_type = MovementKind)]
    pub(crate) kind: String,
    pub(crate) on_hand_delta: i64,
    pub(crate) reserved_delta: i64,
    /// The quantity on hand after this movement.
    #[schema(minimum = 0)]
    pub(crate) on_hand: i64,
    /// The quantity reserved after this movement.
    #[schema(minimum = 0)]
    pub(crate) reserved: i64,
    pub(crate) reason: Option<String>,
    /// The reservation that caused this movement.
    pub(crate) reservation_id: Option<Uuid>,
    /// The number of holds that expired, for kind `expire`.
    #[schema(minimum = 1)]
    pub(crate) holds: Option<i64>,
    /// For kind `expire`: the holds are those with an `expires_at` up to this time, and after that of the previous such
    /// movement. For kind `opening`: that of the last `expire` that it stands for.
    pub(crate) expired_until: Option<DateTime<Utc>>,
    pub(crate) at: DateTime<Utc>,
}

/// The kind of a movement. An `opening` is the oldest one that is left of a ledger: it stands for the deleted ones
/// before it, so its deltas are the counters, and `at` is the time of the last of them.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it documents the values of a column")]
pub(crate) enum MovementKind {
    Set,
    Adjust,
    Hold,
    Commit,
    Release,
    Expire,
    Opening,
}
