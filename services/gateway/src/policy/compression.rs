//! Compresses responses if the client accepts it and the content benefits from it.
//!
//! gzip is the only encoding, as every client accepts it. zstd would add C code to the binary, and brotli costs more
//! time than it saves here.

mod body;
mod etag;
mod negotiation;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use runtime::grpc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) use body::Body;
use body::Gzip;
use negotiation::{Encoding, negotiate};

use super::request_head::has_token;

/// Content shorter than this, in bytes, is not compressed: it fits into one packet anyway.
const MIN_LENGTH: u64 = 1024;

/// The maximum number of responses that are compressed at once; others are sent uncompressed. Each needs about 320 KB,
/// and clients decide how long a stream lasts.
const MAX_CONCURRENT: usize = 64;

/// Digests of the content. Compression would make them wrong.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompressionArgs {
    /// Whether to compress responses with gzip if the client accepts it and the content type benefits from it
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    compression: bool,
    /// Whether to also compress responses that depend on credentials: to requests with Authorization or Cookie, and
    /// those with Set-Cookie, `Cache-Control: private` or a Vary that names credentials. If such a response also
    /// repeats what others made the browser send, its compressed length reveals secrets in it (the BREACH attack)
    #[arg(long, env, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    compress_credentialed: bool,
}

/// Compresses responses.
pub(super) struct Compression {
    is_enabled: bool,
    compress_credentialed: bool,
    permits: Arc<Semaphore>,
}

/// What a request accepts.
#[derive(Debug, Clone, Default)]
pub(super) struct Accepted {
    encoding: Encoding,
    /// Its If-None-Match, if it contains the tag of a compressed response.
    cached_tags: Option<HeaderValue>,
}

impl Accepted {
    pub(super) fn accepts_gzip(&self) -> bool {
        self.encoding != Encoding::Identity
    }
}

impl Compression {
    pub(super) fn new(args: &CompressionArgs) -> Self {
        Self {
            is_enabled: args.compression,
            compress_credentialed: args.compress_credentialed,
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
        }
    }

    pub(super) fn accepted(&self, headers: &HeaderMap) -> Accepted {
        let is_fixed = || has_token(headers, &header::CACHE_CONTROL, "no-transform") || !self.may_reveal(headers);
        let encoding = if self.is_enabled && headers.contains_key(header::ACCEPT_ENCODING) && !is_fixed() {
            negotiate(headers)
        } else {
            Encoding::Identity
        };
        let cached_tags = headers.get(header::IF_NONE_MATCH).filter(|tags| etag::has_suffix(tags)).cloned();
        Accepted { encoding, cached_tags }
    }

    /// Compresses a response if the client accepts it and the content benefits from it, and adapts its head.
    pub(super) fn apply<B>(&self, is_head: bool, accepted: &Accepted, parts: &mut response::Parts, body: B) -> Body<B>
    where
        B: http_body::Body<Data = Bytes>,
    {
        if parts.status == StatusCode::NOT_MODIFIED {
            if let Some(tags) = &accepted.cached_tags
                && etag::restore_suffix(tags, &mut parts.headers)
            {
                add_vary(&mut parts.headers);
            }
            return Body::Plain { body };
        }
        // The length comes first, because for most responses no header lookup is needed.
        let length = if is_head { content_length(&parts.headers) } else { body.size_hint().exact() };
        let is_short = length.is_some_and(|length| length < MIN_LENGTH);
        let must_compress = accepted.encoding == Encoding::GzipOnly;
        if !self.is_enabled || length == Some(0) || (is_short && !must_compress) || !may_transform(parts) {
            return Body::Plain { body };
        }
        match content_kind(&parts.headers) {
            ContentKind::Compressible => {}
            ContentKind::Incompressible if must_compress => {}
            ContentKind::Incompressible | ContentKind::Grpc => return Body::Plain { body },
        }
        add_vary(&mut parts.headers);
        if accepted.encoding == Encoding::Identity || is_head || self.is_credentialed(&parts.headers) {
            return Body::Plain { body };
        }
        let Some(permit) = self.permit() else { return Body::Plain { body } };
        parts.headers.remove(header::CONTENT_LENGTH);
        // Ranges refer to the encoded content, which the service does not have.
        parts.headers.remove(header::ACCEPT_RANGES);
        parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        etag::add_suffix(&mut parts.headers);
        Body::Gzip { body: Gzip::new(body, permit) }
    }

    /// Whether the length of a response to a request may reveal its content.
    fn may_reveal(&self, request: &HeaderMap) -> bool {
        self.compress_credentialed
            || !(request.contains_key(header::AUTHORIZATION) || request.contains_key(header::COOKIE))
    }

    /// Whether a response says that it depends on credentials, and must not be compressed for that.
    fn is_credentialed(&self, response: &HeaderMap) -> bool {
        !self.compress_credentialed
            && (response.contains_key(header::SET_COOKIE)
                || has_token(response, &header::CACHE_CONTROL, "private")
                || ["authorization", "cookie"].iter().any(|name| has_token(response, &header::VARY, name)))
    }

    fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }
}

/// Replaces the tags of compressed responses by those that the service knows. This also happens if compression is
/// disabled, because it may have been enabled when the client received them.
pub(super) fn to_upstream(headers: &mut HeaderMap) {
    etag::remove_suffixes(headers);
}

/// The length that a response to HEAD announces.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether a response may be compressed at all.
fn may_transform(parts: &response::Parts) -> bool {
    let headers = &parts.headers;
    let has_content = !parts.status.is_informational()
        && !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT);
    has_content
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE)
        && !has_token(headers, &header::CACHE_CONTROL, "no-transform")
        && !DIGESTS.iter().any(|name| headers.contains_key(name))
}

/// Kinds of content with regard to compression.
enum ContentKind {
    Compressible,
    Incompressible,
    /// Must not be compressed: gRPC has its own compression, which only its clients understand.
    Grpc,
}

fn content_kind(headers: &HeaderMap) -> ContentKind {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return ContentKind::Incompressible };
    if grpc::has_message_framing(value) {
        return ContentKind::Grpc;
    }
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // Longer than all types below.
    let mut lower = [0; 64];
    let Some(lower) = lower.get_mut(..essence.len()) else { return ContentKind::Incompressible };
    lower.copy_from_slice(essence);
    lower.make_ascii_lowercase();
    let essence = std::str::from_utf8(lower).unwrap_or_default();
    let is_compressible = match essence {
        // Events are short and must not be delayed.
        "text/event-stream" => false,
        "application/json"
        | "application/javascript"
        | "application/xml"
        | "application/yaml"
        | "application/x-ndjson"
        | "application/jsonl"
        | "application/json-seq"
        | "application/graphql-response+json"
        | "application/x-www-form-urlencoded"
        | "application/wasm"
        | "font/ttf"
        | "font/otf"
        | "image/bmp"
        | "image/x-icon"
        | "image/vnd.microsoft.icon" => true,
        _ => essence.starts_with("text/") || essence.ends_with("+json") || essence.ends_with("+xml"),
    };
    if is_compressible { ContentKind::Compressible } else { ContentKind::Incompressible }
}

/// Tells caches that the response depends on Accept-Encoding.
fn add_vary(headers: &mut HeaderMap) {
    if !has_token(headers, &header::VARY, "accept-encoding") && !has_token(headers, &header::VARY, "*") {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

#[cfg(test)]
mod tests;
