//! Files that are served with an entity tag: the merged document and the files of the page.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tokio::{sync::OnceCell, task::spawn_blocking};
use utoipa_swagger_ui::Config;

use super::paths::DOCUMENT;

/// A file to serve.
#[derive(Clone)]
pub(super) struct File {
    media_type: HeaderValue,
    bytes: Bytes,
    /// The compressed content, once somebody has accepted it; `None` if it is not shorter.
    gzip: Arc<OnceCell<Option<Bytes>>>,
    tag: HeaderValue,
}

impl File {
    pub(super) fn new(media_type: HeaderValue, bytes: Bytes) -> Self {
        let hash = Sha256::digest(&bytes);
        let start = hash.iter().take(8).fold(0, |start, byte| start << 8 | u64::from(*byte));
        // The tag is weak because it also stands for the compressed representation.
        let tag = HeaderValue::try_from(format!("W/\"{start:016x}\""));
        Self { media_type, bytes, gzip: Arc::default(), tag: tag.unwrap_or(HeaderValue::from_static("W/\"\"")) }
    }

    /// Responds with the file, or with 304 if the client has it.
    pub(super) async fn respond(&self, request: &HeaderMap, accepts_gzip: bool) -> Response<Full<Bytes>> {
        let is_cached = request.get_all(header::IF_NONE_MATCH).iter().any(|tags| self.is_among(tags));
        let mut response = Response::new(Full::default());
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if is_cached {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(header::CONTENT_TYPE, self.media_type.clone());
        let compressed = if accepts_gzip { self.compressed().await } else { None };
        if compressed.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        *response.body_mut() = Full::new(compressed.unwrap_or_else(|| self.bytes.clone()));
        response
    }

    /// Compresses the file, the first time on a thread that serves no requests.
    async fn compressed(&self) -> Option<Bytes> {
        if let Some(compressed) = self.gzip.get() {
            return compressed.clone();
        }
        // A task of its own ends even if the client disconnects, so that one thread does it once for all requests.
        let Self { gzip, bytes, .. } = self.clone();
        let task = tokio::spawn(async move {
            let compressed = async || spawn_blocking(move || compress(&bytes)).await.ok().flatten();
            gzip.get_or_init(compressed).await.clone()
        });
        task.await.ok().flatten()
    }

    /// Whether a list of tags contains this file's, by weak comparison (RFC 9110, section 13.1.2).
    fn is_among(&self, tags: &HeaderValue) -> bool {
        let own = self.tag.as_bytes().strip_prefix(b"W/").unwrap_or_default();
        let mut tags = tags.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == own)
    }
}

/// Compresses content, if that makes it shorter.
fn compress(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).ok()?;
    let compressed = encoder.finish().ok()?;
    (compressed.len() < bytes.len()).then(|| compressed.into())
}

/// The page. It has a dozen files of up to a megabyte, so a file is cached after the first request to hash it only
/// once.
#[derive(Default)]
pub(super) struct Page {
    files: Mutex<HashMap<String, File>>,
}

impl Page {
    /// Returns a file by its path relative to the page.
    pub(super) fn file(&self, path: &str) -> Option<File> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path) {
            return Some(file.clone());
        }
        let config = Config::from(DOCUMENT).validator_url("none").persist_authorization(true);
        let file = utoipa_swagger_ui::serve(path, Arc::new(config)).ok()??;
        let bytes = match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let file = File::new(HeaderValue::try_from(file.content_type).ok()?, bytes);
        files.insert(path.to_owned(), file.clone());
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::runtime;

    use super::*;

    #[test]
    fn concurrent_requests_compress_a_file_on_one_thread() {
        let threads = Arc::new(AtomicUsize::new(0));
        let count = threads.clone();
        let mut builder = runtime::Builder::new_current_thread();
        builder.on_thread_start(move || _ = count.fetch_add(1, Ordering::SeqCst));
        builder.build().expect("a runtime").block_on(async {
            let file = File::new(HeaderValue::from_static("text/plain"), vec![b'x'; 1_000_000].into());
            let headers = HeaderMap::new();
            for response in join_all((0..50).map(|_| file.respond(&headers, true))).await {
                assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
            }
        });
        assert!(threads.load(Ordering::SeqCst) <= 2, "{threads:?}");
    }
}
