//! Strict percent-encoding (RFC 3986, section 2.1). A `%` that does not start an escape is rejected: taken literally,
//! it would give one resource two names.

use percent_encoding::percent_decode_str;

/// Checks that the escapes are well formed and decode to UTF-8.
///
/// # Errors
/// Returns what is wrong, to be put after the name of the text: "is not valid UTF-8".
pub fn check(text: &str) -> Result<(), &'static str> {
    let mut parts = text.split('%');
    parts.next();
    let escape = |part: &str| part.len() >= 2 && part.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !parts.all(escape) {
        return Err("contains a `%` that does not start a valid escape");
    }
    percent_decode_str(text).decode_utf8().map(drop).map_err(|_| "is not valid UTF-8")
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn escapes_have_two_hex_digits_and_decode_to_utf_8() {
        for good in ["", "/a%20b", "%C3%a9", "a=%25"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["%", "%2", "100%", "%zz", "%2g", "%é", "%25%", "%FF", "%C3"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
