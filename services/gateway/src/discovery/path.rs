//! The form of a path that a service may claim: the one that the kind `Microservice` has.

/// The path without slashes at its end; `None` where no request could have it, or only in another spelling: it must
/// begin with a slash, and no segment may be empty, `.`, `..` or have other characters than those that are never
/// percent-encoded.
pub(super) fn normalized(path: &str) -> Option<String> {
    let segments = path.strip_prefix('/')?.trim_end_matches('/');
    let plain = |character: char| character.is_ascii_alphanumeric() || "._~-".contains(character);
    let good = |segment: &str| !matches!(segment, "" | "." | "..") && segment.chars().all(plain);
    (segments.is_empty() || segments.split('/').all(good)).then(|| format!("/{segments}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_end_mean_nothing() {
        for (path, same) in [
            ("/", "/"),
            ("//", "/"),
            ("/orders", "/orders"),
            ("/orders/", "/orders"),
            ("/v1/a.b~c_d-e//", "/v1/a.b~c_d-e"),
        ] {
            assert_eq!(normalized(path).as_deref(), Some(same), "{path}");
        }
    }

    #[test]
    fn what_no_request_can_have_is_no_path() {
        for path in ["", "orders", "/a//b", "/.", "/a/..", "/../a", "/a b", "/%61", "/a?b", "/{id}", "/é", "//a"] {
            assert_eq!(normalized(path), None, "{path}");
        }
    }
}
