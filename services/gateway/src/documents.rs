//! `/docs` and `/openapi.json`: the APIs of all services in one document, and the page that shows it.

mod fetch;
mod merge;
mod page;
mod references;
mod upgrade;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use runtime::Problem;
use sha2::{Digest, Sha256};
use tokio::{
    sync::Mutex,
    task::{JoinError, spawn_blocking},
};

use crate::services::{Service, Services};

/// How long a merged document is given out before the services are asked again.
const LIFETIME: Duration = Duration::from_secs(5);

/// Where the document is.
const DOCUMENT: &str = "/openapi.json";

/// Where the page is.
const PAGE: &str = "/docs";

/// The documents of all services.
pub(crate) struct Documents {
    services: Services,
    lifetime: Duration,
    /// Held while the services are asked: whoever comes meanwhile gets the same answer.
    merged: Arc<Mutex<Option<Merged>>>,
    page: page::Page,
}

/// What was merged from which services.
struct Merged {
    services: Arc<[Service]>,
    at: Instant,
    file: File,
}

/// A file to give out.
#[derive(Clone)]
struct File {
    media_type: HeaderValue,
    bytes: Bytes,
    tag: HeaderValue,
}

impl Documents {
    pub(crate) fn new(services: Services) -> Self {
        Self { services, lifetime: LIFETIME, merged: Arc::default(), page: page::Page::default() }
    }

    /// The prefix by which a path is the gateway's own, unless a service claims that: the route of a request that is to
    /// be brought to [`Self::answer`], and to no service.
    pub(crate) fn route(&self, path: &str) -> Option<&'static str> {
        own_prefix(path).filter(|own| !is_claimed(&self.services.borrow(), path, own))
    }

    /// The answer to a request for a path that has such a route.
    pub(crate) async fn answer(&self, request: &Parts) -> Response<Full<Bytes>> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return not_allowed();
        }
        match request.uri.path() {
            DOCUMENT => match self.document().await {
                Ok(file) => file.answer(&request.headers),
                Err(error) => Problem::internal(error).into_http().map(Full::new),
            },
            "/" | PAGE => redirect(),
            path => match path.strip_prefix("/docs/").and_then(|path| self.page.file(path)) {
                Some(file) => file.answer(&request.headers),
                None => Problem::not_found("the page has no such file").into_http().map(Full::new),
            },
        }
    }

    async fn document(&self) -> Result<File, JoinError> {
        let mut held = self.merged.clone().lock_owned().await;
        let services = self.services.borrow().clone();
        if let Some(merged) = &*held
            && merged.services == services
            && merged.at.elapsed() < self.lifetime
        {
            return Ok(merged.file.clone());
        }
        // It goes on when the client has gone: else clients that come and go could have the services asked without end.
        let asked = tokio::spawn(async move {
            let file = ask(services.clone()).await?;
            *held = Some(Merged { services, at: Instant::now(), file: file.clone() });
            Ok(file)
        });
        asked.await?
    }
}

/// Asks the services, and merges what they say: on a thread that has no requests to serve meanwhile.
async fn ask(services: Arc<[Service]>) -> Result<File, JoinError> {
    let documents = fetch::all(&services).await;
    let merging = spawn_blocking(move || {
        // One after the other: of each only what is shown is kept.
        let documents = documents.into_iter().map(|document| document.and_then(|bytes| fetch::parse(&bytes)));
        let document = merge::merge(&services, documents);
        File::new(HeaderValue::from_static("application/json"), document.to_string().into())
    });
    merging.await
}

impl File {
    fn new(media_type: HeaderValue, bytes: Bytes) -> Self {
        let hash = Sha256::digest(&bytes);
        let start = hash.iter().take(8).fold(0, |start, byte| start << 8 | u64::from(*byte));
        // Weak, as it stands for the compressed form too.
        let tag = HeaderValue::try_from(format!("W/\"{start:016x}\""));
        Self { media_type, bytes, tag: tag.unwrap_or(HeaderValue::from_static("W/\"\"")) }
    }

    /// The file, or word that the client has it.
    fn answer(&self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let is_known = request.get_all(header::IF_NONE_MATCH).iter().any(|tags| self.is_among(tags));
        let mut response = Response::new(Full::default());
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = Full::new(self.bytes.clone());
            response.headers_mut().insert(header::CONTENT_TYPE, self.media_type.clone());
        }
        response.headers_mut().insert(header::ETAG, self.tag.clone());
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    /// Whether a list of tags has this file's, compared weakly (RFC 9110, section 13.1.2).
    fn is_among(&self, tags: &HeaderValue) -> bool {
        let own = self.tag.as_bytes().strip_prefix(b"W/").unwrap_or_default();
        let mut tags = tags.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == own)
    }
}

/// The prefix by which a path is the gateway's own.
fn own_prefix(path: &str) -> Option<&'static str> {
    match path {
        "/" => Some("/"),
        DOCUMENT => Some(DOCUMENT),
        _ => is_under(PAGE, path).then_some(PAGE),
    }
}

/// Whether a service has the path by a prefix that is as long, or longer: it has, then, what it says it has.
fn is_claimed(services: &[Service], path: &str, own: &str) -> bool {
    let mut prefixes = services.iter().flat_map(|service| &service.paths);
    prefixes.any(|prefix| prefix.len() >= own.len() && is_under(prefix, path))
}

/// Whether a path is a prefix, or goes on from it by whole segments.
fn is_under(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn not_allowed() -> Response<Full<Bytes>> {
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this is only to be read").into_http();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response.map(Full::new)
}

fn redirect() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/docs/"));
    response
}

#[cfg(test)]
mod tests;
