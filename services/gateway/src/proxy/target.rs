//! Paths that mean one thing to the gateway and may mean another to whoever gets the request.
//!
//! A server may resolve `/users/../inventory`, and some do so after they have decoded it. The gateway neither resolves
//! nor decodes, it refuses: dot segments, also where dots or slashes are percent-encoded, where backslashes separate
//! them, or where a path parameter follows (`/..;/`). Encoded characters are data otherwise, and are sent on as they are.

/// Whether a path (without a query) has no segment that could be taken for `.` or `..`.
pub(super) fn is_unambiguous(path: &str) -> bool {
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
            b'/' if only_dots && matches!(dots, 1 | 2) => return false,
            b'/' => (dots, only_dots) = (0, true),
            _ => only_dots = false,
        }
    }
    !(only_dots && matches!(dots, 1 | 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_found_in_all_their_forms() {
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
            assert!(!is_unambiguous(path), "{path}");
        }
    }

    #[test]
    fn dots_and_encoded_characters_within_a_name_are_nothing_special() {
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
            assert!(is_unambiguous(path), "{path}");
        }
    }
}
