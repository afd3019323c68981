//! Ids of users and reservations.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::{Uuid, fmt::Hyphenated};

/// The id of a resource: a UUID (version 7, so ids are in order of creation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResourceId(pub Uuid);

/// Error: the text is not a resource id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidId;

impl ResourceId {
    /// Generates an id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ResourceId {
    type Err = InvalidId;

    /// Accepts only the hyphenated form, so that a resource has a single URL.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != Hyphenated::LENGTH {
            return Err(InvalidId);
        }
        text.parse().map(Self).map_err(|_| InvalidId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_hyphenated_uuid() {
        assert!("0190d9a4-1f5e-7c3a-8a5e-0123456789ab".parse::<ResourceId>().is_ok());
        for bad in ["", "1", "0190d9a41f5e7c3a8a5e0123456789ab", "{0190d9a4-1f5e-7c3a-8a5e-0123456789ab}"] {
            assert!(bad.parse::<ResourceId>().is_err(), "{bad:?}");
        }
    }
}
