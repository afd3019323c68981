//! Product ids.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The id of a product: 1 to 128 characters, no control characters and no `/`, and neither `.` nor `..`, so that it is
/// a single path segment. Sorts by its bytes, as `COLLATE "C"` does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(
    value_type = String,
    min_length = 1,
    max_length = 128,
    pattern = r"^(?!\.{1,2}$)[^/\u0000-\u001f\u007f-\u009f]+$",
    examples("product_123")
)]
pub struct ProductId(Arc<str>);

impl ProductId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ProductId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.chars().count() {
            0 => Err("must not be empty"),
            129.. => Err("must have at most 128 characters"),
            _ if text.contains(|c: char| c.is_control() || c == '/') => {
                Err("must not contain control characters or a slash")
            }
            _ if text == "." || text == ".." => Err("must not be . or .."),
            _ => Ok(Self(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_single_path_segment() {
        for good in ["product_123", "a b", "...", ".a", "é", "%2F", &"é".repeat(128)] {
            assert!(ProductId::try_from(good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "a\0", "\n", "\u{7f}", "\u{85}", &"é".repeat(129)] {
            assert!(ProductId::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
