//! Users and their attributes.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};
use uuid::Uuid;

use super::wishlist::{Wishes, Wishlist};

/// A user.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct User {
    pub(crate) id: Uuid,
    #[schema(value_type = Name)]
    pub(crate) name: String,
    #[schema(value_type = Email)]
    pub(crate) email: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
    /// The `ETag`, incremented by each change.
    #[serde(skip)]
    pub(crate) version: i64,
}

/// A user's name: 1 to 200 characters, not all blank.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 200, pattern = r"^[^\u0000]*[^\s\u0000][^\u0000]*$", examples("Ada"))]
pub(crate) struct Name(String);

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // The information separators are not whitespace in Unicode, but are invisible too.
        let is_blank = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
        match text.chars().count() {
            0 => Err("must not be empty"),
            201.. => Err("must have at most 200 characters"),
            _ if text.contains('\0') => Err("must not contain a NUL character"),
            _ if text.chars().all(is_blank) => Err("must not be blank"),
            _ => Ok(Self(text)),
        }
    }
}

/// A valid email address, as the HTML standard (section 4.10.5.1.5) defines it for web forms.
const EMAIL: &str = "^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\
                     (?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$";

static EMAIL_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(EMAIL).expect("the pattern is constant"));

/// An email address of at most 254 characters, stored as given and compared case-insensitively.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Email(String);

impl Email {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() > 254 {
            return Err("must have at most 254 characters");
        }
        if !EMAIL_PATTERN.is_match(&text) {
            return Err("must be an email address, such as ada@example.com");
        }
        Ok(Self(text))
    }
}

impl ToSchema for Email {}

impl PartialSchema for Email {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new().schema_type(Type::String).max_length(Some(254)).pattern(Some(EMAIL));
        let description = "An email address, stored as given and compared case-insensitively.";
        schema.description(Some(description)).examples(["ada@example.com"]).build().into()
    }
}

/// A new user.
#[derive(ToSchema)]
pub(crate) struct NewUser {
    pub(crate) name: Name,
    pub(crate) email: Email,
    /// The initial products of the wishlist.
    #[schema(value_type = Wishes, required = false)]
    pub(crate) wishlist: Option<Wishes>,
}

/// A created user.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct CreatedUser {
    #[serde(flatten)]
    pub(crate) user: User,
    /// Present if the request had a wishlist.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Wishlist, required = false)]
    pub(crate) wishlist: Option<Wishlist>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_200_characters_and_is_not_blank() {
        for good in ["A", " Ada ", &"é".repeat(200), "李"] {
            assert!(Name::try_from(good.to_owned()).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "\t\n\u{a0}", "\u{1c}", "a\0", &"é".repeat(201)] {
            assert!(Name::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_email_is_what_a_web_form_accepts() {
        let longest = format!("{}@example.com", "a".repeat(242));
        for good in ["ada@example.com", "A.b+c@x", "o'neil@a-b.example", &longest] {
            assert!(Email::try_from(good.to_owned()).is_ok(), "{good:?}");
        }
        let too_long = format!("{}@example.com", "a".repeat(243));
        for bad in ["", "ada", "@x", "ada@", "a b@x", "a@-x", "a@x-", "a@x..y", "a@x\n", "é@x.com", "a\0@x", &too_long]
        {
            assert!(Email::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
