//! Names and texts in statements where nothing can be bound, such as `CREATE ROLE`.

use std::fmt;

use super::Invalid;

/// The longest name in bytes. Postgres cuts longer ones short, and then means another object.
const LONGEST: usize = 63;

/// The name of a role or database. Shown, it is quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identifier(String);

impl Identifier {
    pub(super) fn new(name: &str) -> Result<Self, Invalid> {
        if name.is_empty() || name.len() > LONGEST || name.contains('\0') {
            return Err(Invalid("a database's name has 1 to 63 bytes, none of them NUL"));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name without quotes, to be bound.
    pub(super) fn raw(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.0))
    }
}

/// A name that Postgres itself has told.
pub(super) fn quote(name: &str) -> String {
    quoted('"', name)
}

/// A text as a literal, for texts without backslashes: what those mean is a setting of the server.
pub(super) fn literal(text: &str) -> String {
    debug_assert!(!text.contains(['\\', '\0']), "no literal");
    quoted('\'', text)
}

/// The text between quotes that it cannot end.
fn quoted(quote: char, text: &str) -> String {
    format!("{quote}{}{quote}", text.replace(quote, &format!("{quote}{quote}")))
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
    fn a_name_that_postgres_would_cut_short_is_refused() {
        assert!(Identifier::new(&"x".repeat(63)).is_ok());
        assert!(Identifier::new(&"x".repeat(64)).is_err());
        // 32 letters, 64 bytes.
        assert!(Identifier::new(&"ß".repeat(32)).is_err());
        assert!(Identifier::new("").is_err());
        assert!(Identifier::new("a\0b").is_err());
    }
}
