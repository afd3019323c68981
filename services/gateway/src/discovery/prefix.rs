//! The syntax of path prefixes that a service may claim. It is the syntax of `route.paths` in a `Microservice`, but
//! trailing slashes are removed instead of refused.

/// Removes trailing slashes from a path prefix.
///
/// Returns `None` if no request path can match the prefix, or only after normalization. A prefix must start with a
/// slash; its segments must not be empty, `.` or `..`, and must consist of characters that are never percent-encoded.
pub(super) fn normalize(path: &str) -> Option<String> {
    let segments = path.strip_prefix('/')?.trim_end_matches('/');
    let is_unreserved = |character: char| character.is_ascii_alphanumeric() || "._~-".contains(character);
    let is_valid = |segment: &str| !matches!(segment, "" | "." | "..") && segment.chars().all(is_unreserved);
    (segments.is_empty() || segments.split('/').all(is_valid)).then(|| format!("/{segments}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_slashes_are_removed() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/orders", "/orders"),
            ("/orders/", "/orders"),
            ("/v1/a.b~c_d-e//", "/v1/a.b~c_d-e"),
        ] {
            assert_eq!(normalize(path).as_deref(), Some(expected), "{path}");
        }
    }

    /// Whether the kind accepts a path.
    fn is_accepted(path: &str) -> bool {
        let object = serde_json::json!({
            "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": { "name": "orders" },
            "spec": { "image": "orders:1", "route": { "paths": [path] } },
        });
        api::admit(&object, None).is_ok()
    }

    #[test]
    fn normal_paths_are_those_that_the_kind_accepts() {
        for path in ["/", "/orders", "/v1/a.b~c_d-e", "/...", "/.a", "/a/..b"] {
            assert_eq!(normalize(path).as_deref(), Some(path));
            assert!(is_accepted(path), "{path}");
        }
        for path in
            ["", "a", "//", "/a/", "/a//b", "/.", "/..", "/a/./b", "/a/..", "/a b", "/%61", "/a?b", "/{id}", "/é"]
        {
            assert_ne!(normalize(path).as_deref(), Some(path));
            assert!(!is_accepted(path), "{path}");
        }
    }

    #[test]
    fn a_path_that_no_request_can_have_is_invalid() {
        for path in ["", "orders", "/a//b", "/.", "/a/..", "/../a", "/a b", "/%61", "/a?b", "/{id}", "/é", "//a"] {
            assert_eq!(normalize(path), None, "{path}");
        }
    }
}
