//! Passwords: which ones are accepted, and how they are hashed.

mod hasher;
mod phc;
mod threads;

use std::{collections::HashSet, fmt, sync::LazyLock};

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ObjectBuilder, Type},
    },
};

pub(crate) use hasher::{Busy, Hasher, Place, Verdict};

/// The minimum length, in code points (NIST SP 800-63B-4, section 3.1.1.2, for passwords as the only factor).
const MIN_LENGTH: usize = 15;

/// The maximum length, in code points.
const MAX_LENGTH: usize = 256;

/// Long passwords that are guessed first. Written for Hedgerow from the patterns that every published list of leaked
/// passwords shares: runs of digits, letters and keys, repeated words, and well-known phrases. In lower case, sorted.
const COMMON: &str = include_str!("password/common.txt");

static COMMON_PASSWORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| COMMON.lines().collect());

/// A password that someone enters, in Unicode normalization form C: composed and decomposed characters are the same.
/// It is never shown. Nothing is trimmed, and compatibility characters stay distinct.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Password(String);

impl Password {
    /// Normalizes a password that is to be checked.
    ///
    /// # Errors
    /// Returns an error if it is longer than any password can be.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        // One code point more is enough to know, however long the text is.
        let normalized: String = text.nfc().take(MAX_LENGTH + 1).collect();
        if normalized.chars().count() > MAX_LENGTH {
            return Err("must have at most 256 characters");
        }
        Ok(Self(normalized))
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

impl TryFrom<String> for Password {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

/// A password that may be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct NewPassword(Password);

impl NewPassword {
    pub(crate) fn into_password(self) -> Password {
        self.0
    }

    /// Whether it is the email address of its user.
    pub(crate) fn is_email(&self, email: &str) -> bool {
        self.0.0.eq_ignore_ascii_case(email)
    }
}

impl TryFrom<String> for NewPassword {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let password = Password::new(&text)?;
        let length = password.0.chars().count();
        if length < MIN_LENGTH {
            return Err("must have at least 15 characters");
        }
        let folded = password.0.to_lowercase();
        if COMMON_PASSWORDS.contains(folded.as_str()) || is_repetition(&folded) {
            return Err("is one of the passwords that are guessed first; choose another one");
        }
        Ok(Self(password))
    }
}

/// Whether a text repeats a unit of up to five characters, such as `123123123123123`.
fn is_repetition(text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    (1..=5).any(|period| text.iter().zip(text.iter().skip(period)).all(|(a, b)| a == b))
}

impl ToSchema for Password {}

impl PartialSchema for Password {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_LENGTH));
        schema.description(Some("A password, compared in Unicode normalization form C.")).build().into()
    }
}

impl ToSchema for NewPassword {}

impl PartialSchema for NewPassword {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new().schema_type(Type::String);
        let schema = schema.min_length(Some(MIN_LENGTH)).max_length(Some(MAX_LENGTH));
        let description = "A password that is not one of those that are guessed first. There are no rules on which \
                           characters it must contain.";
        schema.description(Some(description)).examples(["a tall heron waits"]).build().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<NewPassword, &'static str> {
        NewPassword::try_from(text.to_owned())
    }

    #[test]
    fn a_password_has_15_to_256_code_points() {
        let text = |length: usize| ('a'..='z').cycle().take(length - 1).chain(['ß']).collect::<String>();
        for length in [15, 64, 256] {
            assert!(check(&text(length)).is_ok(), "{length}");
        }
        for length in [1, 14, 257, 100_000] {
            assert!(check(&text(length)).is_err(), "{length}");
        }
        assert!(check("").is_err());
        assert!(check("🦔🐿🦊🦉🐇🦡🐁🦌🐝🦋🐛🐌🌰🍄🌿").is_ok(), "15 code points, 60 bytes");
    }

    #[test]
    fn composed_and_decomposed_forms_are_the_same() {
        let (composed, decomposed) = ("café du coin vert", "cafe\u{301} du coin vert");
        assert_eq!(check(composed).expect("valid").0.as_bytes(), check(decomposed).expect("valid").0.as_bytes());
        // Normalization form KC would merge these.
        let (ligature, letters) = ("ﬁfteen hedgehogs", "fifteen hedgehogs");
        assert_ne!(check(ligature).expect("valid").0.as_bytes(), check(letters).expect("valid").0.as_bytes());
    }

    #[test]
    fn length_is_counted_after_normalization() {
        // 28 code points that compose to 14.
        assert!(check(&"e\u{301}o\u{308}".repeat(7)).is_err());
        assert!(Password::new(&"e\u{301}".repeat(256)).is_ok());
    }

    #[test]
    fn nothing_is_trimmed() {
        let password = Password::new("  spaces around  ").expect("valid");
        assert_eq!(password.as_bytes(), b"  spaces around  ");
    }

    #[test]
    fn passwords_that_are_guessed_first_are_refused() {
        for common in
            ["passwordpassword", "PasswordPassword", "1q2w3e4r5t6y7u8i", "123123123123123", "aaaaaaaaaaaaaaaa"]
        {
            assert!(check(common).is_err(), "{common}");
        }
        assert!(check("passwordpassworf").is_ok());
    }

    #[test]
    fn the_list_is_sorted_and_in_use() {
        assert!(COMMON.lines().is_sorted());
        for line in COMMON.lines() {
            assert!(line.chars().count() >= MIN_LENGTH && line.to_lowercase() == line, "{line}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(format!("{:?}", check("a tall heron waits")), "Ok(NewPassword(Password(***)))");
    }
}
