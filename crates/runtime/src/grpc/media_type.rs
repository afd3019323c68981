//! The media types of gRPC (gRPC's `PROTOCOL-HTTP2.md`).

use http::{HeaderMap, HeaderValue, Version, header};

/// Returns whether a request is a gRPC call. gRPC needs HTTP/2: over HTTP/1.1 its media type is like any other.
#[must_use]
pub fn is_call(version: Version, headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    version == Version::HTTP_2 && content_type.and_then(suffix).is_some_and(is_grpc_suffix)
}

/// Returns whether the content consists of length-prefixed messages, as in gRPC and gRPC-Web. Such messages have their
/// own compression, so a proxy must not compress the content.
#[must_use]
pub fn has_message_framing(content_type: &HeaderValue) -> bool {
    suffix(content_type).is_some()
}

/// Returns what follows `application/grpc` in a content type.
fn suffix(content_type: &HeaderValue) -> Option<&[u8]> {
    const PREFIX: &[u8] = b"application/grpc";
    let (prefix, suffix) = content_type.as_bytes().split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(suffix)
}

/// Returns whether the media type ends here, or continues with a message format or parameters. `-web` is gRPC-Web, a
/// different protocol, which works over HTTP/1.1.
fn is_grpc_suffix(suffix: &[u8]) -> bool {
    matches!(suffix, [] | [b'+' | b';' | b' ' | b'\t', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_type: Option<&'static str>) -> HeaderMap {
        content_type.map(|value| (header::CONTENT_TYPE, HeaderValue::from_static(value))).into_iter().collect()
    }

    #[test]
    fn grpc_is_recognized_by_its_media_type() {
        for (content_type, is_grpc, has_framing) in [
            (Some("application/grpc"), true, true),
            (Some("application/grpc+proto"), true, true),
            (Some("application/grpc+json"), true, true),
            (Some("application/grpc;charset=utf-8"), true, true),
            (Some("application/grpc ; charset=utf-8"), true, true),
            (Some("application/grpc+proto; a=b"), true, true),
            (Some("Application/GRPC"), true, true),
            (Some("APPLICATION/gRPC+Proto"), true, true),
            (Some("application/grpc-web"), false, true),
            (Some("application/grpc-web+proto"), false, true),
            (Some("application/grpc-web-text"), false, true),
            (Some("application/grpcx"), false, true),
            (Some("application/grp"), false, false),
            (Some("application/json"), false, false),
            (Some("text/plain; x=application/grpc"), false, false),
            (Some(" application/grpc"), false, false),
            (Some(""), false, false),
            (None, false, false),
        ] {
            let headers = headers(content_type);
            assert_eq!(is_call(Version::HTTP_2, &headers), is_grpc, "{content_type:?}");
            let content_type = headers.get(header::CONTENT_TYPE);
            assert_eq!(content_type.is_some_and(has_message_framing), has_framing, "{content_type:?}");
        }
    }

    #[test]
    fn grpc_needs_http_2() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert!(!is_call(version, &headers(Some("application/grpc"))), "{version:?}");
        }
    }
}
