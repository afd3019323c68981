//! Quotes names and texts for statements without bind parameters, such as `CREATE ROLE`.

use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// The longest name in bytes. Postgres truncates longer names, which then denote another object.
const LONGEST: usize = 63;

/// A value that is not allowed, with a message that says what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub(super) &'static str);

/// The name of a role or database. `Display` quotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identifier(String);

impl Identifier {
    pub(super) fn new(name: &str) -> Result<Self, Invalid> {
        if name.is_empty() || name.len() > LONGEST || name.contains('\0') {
            return Err(Invalid("a database name must be 1 to 63 bytes long and contain no NUL"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The unquoted name, for bind parameters.
    pub(super) fn raw(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.0))
    }
}

/// Quotes a name that was read from Postgres.
pub(super) fn quote(name: &str) -> String {
    escape_identifier(name)
}

/// Quotes a text as a literal, whatever the server's setting for backslashes.
pub(super) fn literal(text: &str) -> String {
    escape_literal(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_its_quotes() {
        let shown = |name| Identifier::new(name).unwrap().to_string();
        assert_eq!(shown("inventory"), r#""inventory""#);
        assert_eq!(shown(r#"a"; DROP TABLE b; --"#), r#""a""; DROP TABLE b; --""#);
        assert_eq!(shown(r#"""#), r#""""""#);
        assert_eq!(shown(r"it's \"), r#""it's \""#);
        assert_eq!(shown("Größe 🌳"), r#""Größe 🌳""#);
    }

    #[test]
    fn a_literal_cannot_end_its_quotes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r#"a"b"#), r#"'a"b'"#);
    }

    #[test]
    fn a_name_that_postgres_would_truncate_is_rejected() {
        assert!(Identifier::new(&"x".repeat(63)).is_ok());
        assert!(Identifier::new(&"x".repeat(64)).is_err());
        // 32 letters, 64 bytes.
        assert!(Identifier::new(&"ß".repeat(32)).is_err());
        assert!(Identifier::new("").is_err());
        assert!(Identifier::new("a\0b").is_err());
    }
}
