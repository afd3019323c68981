//! Entity tags of compressed responses.
//!
//! A strong tag identifies one sequence of bytes, so a compressed response must not have the same tag as the plain one
//! (RFC 9110, section 8.8.3). Most proxies make the tag weak. But a weak tag never matches in If-Match, so a client
//! that updates what it has read would get a 412 whenever the response had been compressed. Instead, the tag gets a
//! suffix: `"3"` becomes `"3--gzip"`, as in the example of RFC 9110 (section 8.8.3.3) and in Jetty. In requests the
//! suffix is removed again.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};

/// The end of a tag with the suffix.
const SUFFIX: &[u8] = b"--gzip\"";

/// Whether a list of tags contains one with the suffix.
pub(super) fn has_suffix(tags: &HeaderValue) -> bool {
    tags.as_bytes().windows(SUFFIX.len()).any(|window| window == SUFFIX)
}

/// Adds the suffix to the tag of a compressed response. Weak tags are kept, since they identify all representations.
pub(super) fn add_suffix(headers: &mut HeaderMap) {
    if let Some(suffixed) = headers.get(header::ETAG).and_then(suffixed) {
        headers.insert(header::ETAG, suffixed);
    }
}

/// Removes the suffix from the tags in a request's conditions. Quotes only occur around tags, so the suffix cannot
/// occur elsewhere. If-Range is kept: compressed responses have no ranges, and for an unknown tag the service sends the
/// whole content.
pub(super) fn remove_suffixes(headers: &mut HeaderMap) {
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        if let Some(lines) = headers.get_all(&name).iter().any(has_suffix).then(|| headers.get_all(&name)) {
            let lines: Vec<_> = lines.iter().map(without_suffixes).collect();
            headers.remove(&name);
            for line in lines {
                headers.append(name.clone(), line);
            }
        }
    }
}

/// Adds the suffix to the tag of a 304 response if the client has cached the compressed response. Returns whether it
/// has.
pub(super) fn restore_suffix(if_none_match: &HeaderValue, headers: &mut HeaderMap) -> bool {
    let Some(suffixed) = headers.get(header::ETAG).and_then(suffixed) else { return false };
    let mut windows = if_none_match.as_bytes().windows(suffixed.len());
    let is_cached = windows.any(|window| window == suffixed.as_bytes());
    if is_cached {
        headers.insert(header::ETAG, suffixed);
    }
    is_cached
}

fn suffixed(tag: &HeaderValue) -> Option<HeaderValue> {
    let opaque = tag.as_bytes().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let suffixed = [b"\"", opaque, SUFFIX].concat();
    HeaderValue::from_maybe_shared(Bytes::from(suffixed)).ok()
}

fn without_suffixes(line: &HeaderValue) -> HeaderValue {
    let mut rest = line.as_bytes();
    let mut plain = BytesMut::with_capacity(rest.len());
    while let Some(at) = rest.windows(SUFFIX.len()).position(|window| window == SUFFIX) {
        plain.extend_from_slice(&rest[..at]);
        plain.extend_from_slice(b"\"");
        rest = &rest[at + SUFFIX.len()..];
    }
    plain.extend_from_slice(rest);
    HeaderValue::from_maybe_shared(plain.freeze()).unwrap_or_else(|_| line.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn only_strong_tags_get_a_suffix() {
        let cases =
            [("\"3\"", "\"3--gzip\""), ("\"\"", "\"--gzip\""), ("W/\"3\"", "W/\"3\""), ("3", "3"), ("\"", "\"")];
        for (tag, expected) in cases {
            let mut headers = HeaderMap::from_iter([(header::ETAG, value(tag))]);
            add_suffix(&mut headers);
            assert_eq!(headers.get(header::ETAG), Some(&value(expected)), "{tag}");
        }
    }

    #[test]
    fn requests_carry_the_tags_of_the_service() {
        let cases = [
            ("\"3--gzip\"", "\"3\""),
            ("\"3\"", "\"3\""),
            ("*", "*"),
            ("\"1\", W/\"2--gzip\", \"3--gzip\",\"4--gzip\"", "\"1\", W/\"2\", \"3\",\"4\""),
            ("\"a--gzip-b\"", "\"a--gzip-b\""),
            ("\"--gzip\"", "\"\""),
            ("--gzip", "--gzip"),
        ];
        for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
            for (given, expected) in cases {
                let mut headers =
                    HeaderMap::from_iter([(name.clone(), value("\"9--gzip\"")), (name.clone(), value(given))]);
                remove_suffixes(&mut headers);
                assert_eq!(headers.get_all(&name).iter().collect::<Vec<_>>(), [&value("\"9\""), &value(expected)]);
            }
        }
        let mut headers = HeaderMap::from_iter([(header::IF_RANGE, value("\"3--gzip\""))]);
        remove_suffixes(&mut headers);
        assert_eq!(headers.get(header::IF_RANGE), Some(&value("\"3--gzip\"")));
    }

    #[test]
    fn a_304_has_the_tag_that_the_client_has_cached() {
        let cases = [
            ("\"3--gzip\"", "\"3\"", "\"3--gzip\""),
            ("\"2--gzip\", \"3\"", "\"3\"", "\"3\""),
            ("\"13--gzip\"", "\"3\"", "\"3\""),
            ("\"3--gzip\"", "W/\"3\"", "W/\"3\""),
        ];
        for (given, own, expected) in cases {
            let mut headers = HeaderMap::from_iter([(header::ETAG, value(own))]);
            let is_cached = restore_suffix(&value(given), &mut headers);
            assert_eq!(headers.get(header::ETAG), Some(&value(expected)), "{given}, {own}");
            assert_eq!(is_cached, own != expected, "{given}, {own}");
        }
    }
}
