//! Entity tags of compressed answers.
//!
//! A strong tag names one sequence of bytes, so a compressed answer cannot bear the same as the plain one (RFC 9110,
//! section 8.8.3). Made weak, as by most proxies, it would be of no use in If-Match, where only strong tags count: a
//! client that changes what it has read would get a 412 whenever it had been read compressed. So it is another strong
//! tag, `"3--gzip"` for `"3"`, as RFC 9110 has it in its example (8.8.3.3) and Jetty does it; in requests it is turned
//! back into the service's own.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};

/// The end of a tag that is ours.
const MARK: &[u8] = b"--gzip\"";

/// Whether a list of tags has one of ours.
pub(super) fn is_ours(tags: &HeaderValue) -> bool {
    tags.as_bytes().windows(MARK.len()).any(|window| window == MARK)
}

/// Gives a compressed answer a tag of its own; weak ones stand for all forms anyway.
pub(super) fn mark(headers: &mut HeaderMap) {
    if let Some(marked) = headers.get(header::ETAG).and_then(marked) {
        headers.insert(header::ETAG, marked);
    }
}

/// Turns the tags in a request's conditions back. Quotes are only around tags, so the mark is nowhere else. If-Range is
/// left as it is: there are no ranges of compressed answers, and with a tag that is not its own the service sends all.
pub(super) fn unmark(headers: &mut HeaderMap) {
    for name in [header::IF_MATCH, header::IF_NONE_MATCH] {
        if let Some(lines) = headers.get_all(&name).iter().any(is_ours).then(|| headers.get_all(&name)) {
            let lines: Vec<_> = lines.iter().map(unmarked).collect();
            headers.remove(&name);
            for line in lines {
                headers.append(name.clone(), line);
            }
        }
    }
}

/// Gives a 304 the tag that the client has, where that is the mark of a compressed answer.
pub(super) fn restore(given: &HeaderValue, headers: &mut HeaderMap) {
    let Some(marked) = headers.get(header::ETAG).and_then(marked) else { return };
    let mut given = given.as_bytes().windows(marked.len());
    if given.any(|window| window == marked.as_bytes()) {
        headers.insert(header::ETAG, marked);
        super::vary(headers);
    }
}

fn marked(tag: &HeaderValue) -> Option<HeaderValue> {
    let opaque = tag.as_bytes().strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let marked = [b"\"", opaque, MARK].concat();
    HeaderValue::from_maybe_shared(Bytes::from(marked)).ok()
}

fn unmarked(line: &HeaderValue) -> HeaderValue {
    let mut rest = line.as_bytes();
    let mut plain = BytesMut::with_capacity(rest.len());
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        plain.extend_from_slice(&rest[..at]);
        plain.extend_from_slice(b"\"");
        rest = &rest[at + MARK.len()..];
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
    fn only_strong_tags_are_marked() {
        let cases =
            [("\"3\"", "\"3--gzip\""), ("\"\"", "\"--gzip\""), ("W/\"3\"", "W/\"3\""), ("3", "3"), ("\"", "\"")];
        for (tag, expected) in cases {
            let mut headers = HeaderMap::from_iter([(header::ETAG, value(tag))]);
            mark(&mut headers);
            assert_eq!(headers.get(header::ETAG), Some(&value(expected)), "{tag}");
        }
    }

    #[test]
    fn a_service_is_asked_about_its_own_tags() {
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
                unmark(&mut headers);
                assert_eq!(headers.get_all(&name).iter().collect::<Vec<_>>(), [&value("\"9\""), &value(expected)]);
            }
        }
        let mut headers = HeaderMap::from_iter([(header::IF_RANGE, value("\"3--gzip\""))]);
        unmark(&mut headers);
        assert_eq!(headers.get(header::IF_RANGE), Some(&value("\"3--gzip\"")));
    }

    #[test]
    fn not_modified_bears_the_tag_that_the_client_has() {
        let cases = [
            ("\"3--gzip\"", "\"3\"", "\"3--gzip\""),
            ("\"2--gzip\", \"3\"", "\"3\"", "\"3\""),
            ("\"13--gzip\"", "\"3\"", "\"3\""),
            ("\"3--gzip\"", "W/\"3\"", "W/\"3\""),
        ];
        for (given, own, expected) in cases {
            let mut headers = HeaderMap::from_iter([(header::ETAG, value(own))]);
            restore(&value(given), &mut headers);
            assert_eq!(headers.get(header::ETAG), Some(&value(expected)), "{given}, {own}");
            assert_eq!(headers.contains_key(header::VARY), own != expected, "{given}, {own}");
        }
    }
}
