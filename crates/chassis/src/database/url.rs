//! The URL of a database.

use std::{fmt, str::FromStr};

use sqlx::postgres::PgConnectOptions;

/// A Postgres URL. It holds a password, so it is never shown.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Parses the URL.
    ///
    /// # Errors
    /// Returns a text that names the expected form and repeats nothing of the URL.
    pub fn options(&self) -> Result<PgConnectOptions, &'static str> {
        let expected = "DATABASE_URL must be a URL such as postgres://USER:PASSWORD@HOST:5432/DATABASE";
        if !self.0.starts_with("postgres://") && !self.0.starts_with("postgresql://") {
            return Err(expected);
        }
        PgConnectOptions::from_str(&self.0).map_err(|_| expected)
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_never_shown() {
        let url = DatabaseUrl::from("mysql://ada:secret@localhost/x".to_owned());
        assert_eq!(format!("{url:?}"), "DatabaseUrl(***)");
        assert!(!url.options().expect_err("no Postgres URL").contains("secret"));
        let url = DatabaseUrl::from("postgres://ada:secret@localhost:badport/x".to_owned());
        assert!(!url.options().expect_err("a bad port").contains("secret"));
    }
}
