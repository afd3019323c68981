//! Detects paths that a service may read differently than the gateway.
//!
//! A server may resolve `/users/../inventory`, and some do so after decoding it. The gateway neither resolves nor
//! decodes paths. It refuses dot segments, including those with percent-encoded dots or slashes, with backslashes as
//! separators, or with a path parameter (`/..;/`). Other encoded characters are data and are passed on unchanged.

/// Whether a path (without query) has a segment that could be read as `.` or `..`.
pub(super) fn has_dot_segment(path: &str) -> bool {
    let bytes = path.as_bytes();
    let (mut at, mut dots, mut only_dots) = (0, 0, true);
    while at < bytes.len() {
        let (unit, length) = match &bytes[at..] {
            [b'%', b'2', b'e' | b'E', ..] => (b'.', 3),
            [b'%', b'2', b'f' | b'F', ..] | [b'%', b'5', b'c' | b'C', ..] => (b'/', 3),
            [b'%', b'3', b'b' | b'B', ..] | [b'\\' | b';', ..] => (b'/', if bytes[at] == b'%' { 3 } else { 1 }),
            [byte, ..] => (*byte, 1),
            [] => break,
        };
        at += length;
        match unit {
            b'.' => dots += 1,
            b'/' if only_dots && matches!(dots, 1 | 2) => return true,
            b'/' => (dots, only_dots) = (0, true),
            _ => only_dots = false,
        }
    }
    only_dots && matches!(dots, 1 | 2)
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dot_segments_are_found_in_every_form() {
        for path in [
            "/.",
            "/..",
            "/users/..",
            "/users/../inventory",
            "/users/./1",
            "/./users",
            "/../users",
            "..",
            ".",
            "/users/%2e%2e/inventory",
            "/users/%2E./inventory",
            "/users/.%2e",
            "/%2e",
            "/users/..%2finventory",
            "/users%2f..%2Finventory",
            "/users/..\\inventory",
            "/users\\..\\inventory",
            "/users/..%5cinventory",
            "/users%5C%2e%2e%5Cinventory",
            "/users/..;/inventory",
            "/users/..;a=b/inventory",
            "/users/..%3b/inventory",
            "/users//../inventory",
            "/users/%2e%2e%3B",
        ] {
            assert!(has_dot_segment(path), "{path}");
        }
    }

    #[test]
    fn other_dots_and_encoded_characters_are_data() {
        for path in [
            "/",
            "",
            "*",
            "/users",
            "/users/",
            "//",
            "/users//1",
            "/a.b",
            "/.a",
            "/a.",
            "/..a",
            "/a..",
            "/...",
            "/a/.../b",
            "/.well-known/x",
            "/caf%C3%A9",
            "/a%2fb",
            "/a%2eb",
            "/a%20b",
            "/%",
            "/%2",
            "/a;b=c",
            "/a%252e%252e/b",
        ] {
            assert!(!has_dot_segment(path), "{path}");
        }
    }

    proptest! {
        /// A lenient server decodes a path once, and takes slashes, backslashes and semicolons for separators.
        #[test]
        fn a_path_is_refused_if_a_lenient_server_finds_a_dot_segment(
            path in r"(\.|%2[eE]|/|%2[fF]|%5[cC]|\\|;|%3[bB]|%|%25|2|e|a|\PC){0,12}",
        ) {
            let decoded = percent_decode_str(&path).collect::<Vec<u8>>();
            let mut segments = decoded.split(|byte| b"/\\;".contains(byte));
            prop_assert_eq!(has_dot_segment(&path), segments.any(|segment| matches!(segment, b"." | b"..")));
        }
    }
}
