//! Connection URLs over the socket, understood by both `sqlx` and `libpq`.

use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::PORT;

/// Everything except the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `sslmode` and the port are explicit, because `PGSSLMODE` and `PGPORT` would apply otherwise.
pub fn url(socket_dir: &Path, role: &str, password: Option<&str>, database: &str) -> String {
    let password = password.map(|password| format!(":{}", encode(password))).unwrap_or_default();
    format!(
        "postgres://{}{password}@localhost:{PORT}/{}?host={}&sslmode=disable",
        encode(role),
        encode(database),
        encode(&socket_dir.to_string_lossy()),
    )
}

fn encode(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, ENCODED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_percent_encoded() {
        assert_eq!(
            url(Path::new("/a b/run"), "rôle", Some("p@:/?#&="), "d%b"),
            "postgres://r%C3%B4le:p%40%3A%2F%3F%23%26%3D@localhost:5432/d%25b?host=%2Fa%20b%2Frun&sslmode=disable"
        );
        assert_eq!(
            url(Path::new("/run"), "postgres", None, "users"),
            "postgres://postgres@localhost:5432/users?host=%2Frun&sslmode=disable"
        );
    }
}
