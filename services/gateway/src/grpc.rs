//! Recognises gRPC: the one place that knows its media types.

use http::{HeaderValue, Version, header, request::Parts};

/// How a request is passed on to its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Over HTTP/1.1.
    Http,
    /// Over HTTP/2, exempt from the gateway's timeouts and body limit.
    Grpc,
}

impl Protocol {
    /// The protocol of a request. gRPC needs HTTP/2: over HTTP/1.1 its media type is just another media type.
    pub(crate) fn of(request: &Parts) -> Self {
        let content_type = request.headers.get(header::CONTENT_TYPE);
        let is_grpc = content_type.and_then(suffix).is_some_and(is_grpc_suffix);
        if is_grpc && request.version == Version::HTTP_2 { Self::Grpc } else { Self::Http }
    }

    pub(crate) fn is_grpc(self) -> bool {
        self == Self::Grpc
    }
}

/// Whether the content consists of length-prefixed gRPC messages, in gRPC or gRPC-Web. Such messages carry their own
/// compression, so the content must not be transformed.
pub(crate) fn has_message_framing(content_type: &HeaderValue) -> bool {
    suffix(content_type).is_some()
}

/// What follows `application/grpc` in a content type.
fn suffix(content_type: &HeaderValue) -> Option<&[u8]> {
    const PREFIX: &[u8] = b"application/grpc";
    let (prefix, suffix) = content_type.as_bytes().split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(suffix)
}

/// Whether the media type ends here, or goes on with a message format or parameters. `-web` is gRPC-Web, another
/// protocol, which works over HTTP/1.1.
fn is_grpc_suffix(suffix: &[u8]) -> bool {
    matches!(suffix, [] | [b'+' | b';' | b' ' | b'\t', ..])
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(version: Version, content_type: Option<&str>) -> Parts {
        let mut request = Request::builder().version(version);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn grpc_is_recognised_by_its_media_type() {
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
            let parts = request(Version::HTTP_2, content_type);
            assert_eq!(Protocol::of(&parts).is_grpc(), is_grpc, "{content_type:?}");
            let content_type = parts.headers.get(header::CONTENT_TYPE);
            assert_eq!(content_type.is_some_and(has_message_framing), has_framing, "{content_type:?}");
        }
    }

    #[test]
    fn grpc_needs_http_2() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(Protocol::of(&request(version, Some("application/grpc"))), Protocol::Http, "{version:?}");
        }
    }
}
