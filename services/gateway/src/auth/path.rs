//! Detects paths that rules and a service may read differently.
//!
//! Rules are about paths whose segments consist of characters that never need to be encoded. A service that decodes
//! `/orders/%61dmin`, merges slashes, or cuts off path parameters would serve `/orders/admin` although no rule for it
//! was applied. So where rules are about paths, such requests are refused. Dot segments are refused everywhere.

use percent_encoding::percent_decode_str;

/// Whether a service may read a path (without query) as another one that rules are about.
pub(super) fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    // Most paths have none of these characters.
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b';' | b'\\')) {
        return has_empty_segment(bytes);
    }
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let byte = match bytes.get(at + 1..at + 3) {
            Some(digits) if byte == b'%' => match decode(digits) {
                Some(decoded) if is_unreserved(decoded) || decoded.is_ascii_control() || decoded == b'/' => {
                    return true;
                }
                Some(decoded) => {
                    at += 2;
                    decoded
                }
                None => return true,
            },
            None if byte == b'%' => return true,
            _ => byte,
        };
        if matches!(byte, b';' | b'\\') {
            return true;
        }
        at += 1;
    }
    // A decoder that is lenient about UTF-8 finds slashes in invalid sequences.
    has_empty_segment(bytes) || percent_decode_str(path).decode_utf8().is_err()
}

fn has_empty_segment(path: &[u8]) -> bool {
    path.windows(2).any(|two| two == b"//")
}

fn decode(digits: &[u8]) -> Option<u8> {
    let digit = |index: usize| char::from(*digits.get(index)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// Characters that never need to be encoded (RFC 3986, section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._~-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tricks_are_found_in_every_form() {
        for path in [
            "/orders%2fadmin",
            "/orders%2Fadmin",
            "/orders%5cadmin",
            "/orders%5Cadmin",
            "/orders\\admin",
            "/orders;a=b/admin",
            "/orders;/admin",
            "/orders%3Ba/admin",
            "/orders%3ba/admin",
            "//orders",
            "/orders//admin",
            "/orders/admin//",
            "/orders/%61dmin",
            "/orders/%41dmin",
            "/orders/admi%6e",
            "/orders/admin%7E",
            "/orders/admin%00",
            "/orders/admin%0a",
            "/orders/admin%7f",
            "/orders/%",
            "/orders/%2",
            "/orders/%2g",
            "/orders/%c0%af",
            "/orders/%ff",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
    }

    #[test]
    fn other_encoded_characters_are_data() {
        for path in ["/", "", "*", "/orders/", "/orders/caf%C3%A9", "/a%20b", "/a%3Ab", "/a%252Fb", "/a+b", "/a:b@c"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }

    proptest! {
        /// What a lenient service reads into a path that is not refused has the same segments, as far as rules go.
        #[test]
        fn a_lenient_service_finds_the_same_prefix(
            path in r"(/|%2[fF]|%5[cC]|\\|;|%3[bB]|%61|%|%25|a|b|%C3%A9|\PC){0,12}",
        ) {
            if is_ambiguous(&path) {
                return Ok(());
            }
            let decoded = percent_decode_str(&path).decode_utf8().expect("UTF-8");
            let segments = |text: &str| {
                let is_plain = |segment: &&str| segment.bytes().all(is_unreserved);
                text.split(['/', '\\', ';']).map(|segment| Some(segment).filter(is_plain).map(str::to_owned)).collect::<Vec<_>>()
            };
            prop_assert_eq!(segments(&decoded), segments(&path));
        }
    }
}
