//! Roles of users and scopes of clients.

use serde::Deserialize;
use utoipa::ToSchema;

/// A role of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    User,
    Admin,
}

impl Role {
    /// The role as it is stored. Every user has the role `user`, so that is not.
    pub(crate) fn stored(self) -> Option<&'static str> {
        match self {
            Self::User => None,
            Self::Admin => Some(identity::ADMIN),
        }
    }
}

/// A scope (RFC 6749, section 3.3), of at most 100 characters.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 100, pattern = r"^[!#-\[\]-~]+$", examples("inventory:write"))]
pub(crate) struct Scope(String);

impl Scope {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Scope {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_valid = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if !(1..=100).contains(&text.len()) {
            return Err("must have 1 to 100 characters");
        }
        if !text.bytes().all(is_valid) {
            return Err("must be visible ASCII without quotes and backslashes");
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_visible_ascii_without_quotes() {
        for good in ["inventory:write", "a", "https://shop.example/x", &"x".repeat(100)] {
            assert!(Scope::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a\\b", "é", &"x".repeat(101)] {
            assert!(Scope::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
