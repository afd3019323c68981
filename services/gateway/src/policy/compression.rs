//! Compression of answers, where the client takes it and the content is worth it.
//!
//! gzip alone: every client takes it. zstd would be C in the binary, and brotli costs more time than it saves here.

mod gzip;
mod negotiation;
mod tags;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};

pub(super) use gzip::Gzip;
use negotiation::{Choice, choose};

use super::{Body, upstream::has_token};
use crate::grpc;

/// Content shorter than this, in bytes, is sent as it is: in a packet it is no longer, and takes no time.
const MIN_LENGTH: u64 = 1024;

/// Most answers that are compressed at a time; more are sent as they are. Each needs some 320 KB, and clients decide how
/// long a stream lasts.
const MAX_AT_A_TIME: usize = 64;

/// Checksums of the content as it was sent: they would be wrong.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

#[derive(Debug, Clone, clap::Args)]
pub(super) struct CompressionArgs {
    /// Whether answers are compressed (gzip) where the client takes that and their type is worth it
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    compression: bool,
}

/// Compresses answers.
pub(super) struct Compression {
    is_on: bool,
    at_a_time: Arc<AtomicUsize>,
}

/// What a request says about compression.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    choice: Choice,
    /// Its If-None-Match, where that names a compressed answer.
    tags: Option<HeaderValue>,
}

/// One of the answers that are compressed at a time.
pub(super) struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Compression {
    pub(super) fn new(args: &CompressionArgs) -> Self {
        Self { is_on: args.compression, at_a_time: Arc::default() }
    }

    pub(super) fn see(&self, headers: &HeaderMap) -> Asked {
        let is_fixed = || has_token(headers, &header::CACHE_CONTROL, "no-transform");
        let choice = if self.is_on && headers.contains_key(header::ACCEPT_ENCODING) && !is_fixed() {
            choose(headers)
        } else {
            Choice::Plain
        };
        Asked { choice, tags: headers.get(header::IF_NONE_MATCH).filter(|tags| tags::is_ours(tags)).cloned() }
    }

    /// Compresses the answer, where it is asked for and worth it, and says so in its head.
    pub(super) fn apply<B>(&self, is_head: bool, asked: &Asked, parts: &mut response::Parts, body: B) -> Body<B>
    where
        B: http_body::Body<Data = Bytes>,
    {
        if parts.status == StatusCode::NOT_MODIFIED {
            if let Some(given) = &asked.tags {
                tags::restore(given, &mut parts.headers);
            }
            return Body::Plain { body };
        }
        // First of all the length, which needs no look at a header.
        let length = if is_head { announced(&parts.headers) } else { body.size_hint().exact() };
        let is_short = length.is_some_and(|length| length < MIN_LENGTH);
        let is_only = asked.choice == Choice::OnlyGzip;
        if !self.is_on || length == Some(0) || (is_short && !is_only) || !is_free(parts) {
            return Body::Plain { body };
        }
        match content(&parts.headers) {
            Content::Text => {}
            Content::Other if is_only => {}
            Content::Other | Content::Framed => return Body::Plain { body },
        }
        vary(&mut parts.headers);
        if asked.choice == Choice::Plain || is_head {
            return Body::Plain { body };
        }
        let Some(slot) = self.slot() else { return Body::Plain { body } };
        parts.headers.remove(header::CONTENT_LENGTH);
        // Ranges are of the content as it is sent, and of that the service has none.
        parts.headers.remove(header::ACCEPT_RANGES);
        parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        tags::mark(&mut parts.headers);
        Body::Gzip { body: Gzip::new(body, slot) }
    }

    fn slot(&self) -> Option<Slot> {
        if self.at_a_time.fetch_add(1, Ordering::Relaxed) < MAX_AT_A_TIME {
            return Some(Slot(self.at_a_time.clone()));
        }
        self.at_a_time.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// Names to the service the tags that it knows, in place of those of compressed answers. Also where nothing is
/// compressed now: it may have been when the client got them.
pub(super) fn to_upstream(headers: &mut HeaderMap) {
    tags::unmark(headers);
}

/// What the length is in an answer to HEAD.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether an answer's content may be another than it is.
fn is_free(parts: &response::Parts) -> bool {
    let headers = &parts.headers;
    let has_content = !parts.status.is_informational()
        && !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT);
    has_content
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE)
        && !has_token(headers, &header::CACHE_CONTROL, "no-transform")
        && !DIGESTS.iter().any(|name| headers.contains_key(name))
}

/// What compression does to a kind of content.
enum Content {
    /// It makes it shorter.
    Text,
    /// It does nothing for it.
    Other,
    /// It must not be: gRPC compresses by itself, and tells nobody but its clients.
    Framed,
}

fn content(headers: &HeaderMap) -> Content {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Content::Other };
    if grpc::has_message_framing(value) {
        return Content::Framed;
    }
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    // The longest of those below; a longer one is not among them.
    let mut lower = [0; 64];
    let Some(lower) = lower.get_mut(..essence.len()) else { return Content::Other };
    lower.copy_from_slice(essence);
    lower.make_ascii_lowercase();
    let essence = std::str::from_utf8(lower).unwrap_or_default();
    let is_text = match essence {
        // Events are short, and must not wait.
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
    if is_text { Content::Text } else { Content::Other }
}

/// Tells caches that another client may get another form.
fn vary(headers: &mut HeaderMap) {
    if !has_token(headers, &header::VARY, "accept-encoding") && !has_token(headers, &header::VARY, "*") {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

#[cfg(test)]
mod tests;
