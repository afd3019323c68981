//! `/openapi.json` merges the OpenAPI documents of all services into one; `/docs` is a page that shows it.

mod budget;
mod fetch;
mod file;
mod merge;
mod paths;
mod references;
mod upgrade;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::AuthMode;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use runtime::Problem;
use tokio::{
    sync::Mutex,
    task::{JoinError, spawn_blocking},
};

use self::{
    file::{File, Page},
    paths::{DOCUMENT, PAGE},
};
use crate::{
    auth::Authenticator,
    discovery::{Service, Services},
};

/// How long a merged document is served before the services are asked again.
const LIFETIME: Duration = Duration::from_secs(5);

/// What the page may do. It shows what services write, so it runs no scripts but its own, and loads nothing from other
/// hosts. Its own scripts set styles.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The merged document of all services, and the page that shows it.
pub(crate) struct ApiDocs {
    services: Services,
    /// Knows what routes require that do not say.
    authenticator: Arc<Authenticator>,
    lifetime: Duration,
    /// Locked while the services are asked, so that concurrent requests share one result.
    merged: Arc<Mutex<Option<Merged>>>,
    page: Page,
}

/// A merged document and the services that it was made from.
struct Merged {
    services: Arc<[Service]>,
    created: Instant,
    file: File,
}

impl ApiDocs {
    pub(crate) fn new(services: Services, authenticator: Arc<Authenticator>) -> Self {
        Self { services, authenticator, lifetime: LIFETIME, merged: Arc::default(), page: Page::default() }
    }

    /// Returns the gateway's own prefix of a path, unless a service claims the path. Requests with such a prefix go to
    /// [`Self::respond`] instead of a service.
    pub(crate) fn route(&self, path: &str) -> Option<&'static str> {
        paths::own_prefix(path).filter(|own| !paths::is_claimed(&self.services.borrow(), path, own))
    }

    /// Responds to a request for which [`Self::route`] returned a prefix.
    pub(crate) async fn respond(&self, request: &Parts, accepts_gzip: bool) -> Response<Full<Bytes>> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return method_not_allowed();
        }
        match request.uri.path() {
            DOCUMENT => match self.document().await {
                Ok(file) => file.respond(&request.headers, accepts_gzip).await,
                Err(error) => Problem::internal(error).into_http().map(Full::new),
            },
            "/" | PAGE => redirect_to_page(),
            path => match path.strip_prefix("/docs/").and_then(|path| self.page.file(path)) {
                Some(file) => {
                    let mut response = file.respond(&request.headers, accepts_gzip).await;
                    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
                    response
                }
                None => Problem::not_found("no such file below /docs").into_http().map(Full::new),
            },
        }
    }

    async fn document(&self) -> Result<File, JoinError> {
        let mut cached = self.merged.clone().lock_owned().await;
        let services = self.services.borrow().clone();
        if let Some(merged) = &*cached
            && merged.services == services
            && merged.created.elapsed() < self.lifetime
        {
            return Ok(merged.file.clone());
        }
        let default_mode = self.authenticator.default_mode();
        // A task of its own finishes even if the client disconnects. Otherwise clients that connect and disconnect
        // could make the gateway ask the services over and over.
        let task = tokio::spawn(async move {
            let file = fetch_and_merge(services.clone(), default_mode).await?;
            *cached = Some(Merged { services, created: Instant::now(), file: file.clone() });
            Ok(file)
        });
        task.await?
    }
}

/// Fetches all documents, and merges them on a thread that serves no requests.
async fn fetch_and_merge(services: Arc<[Service]>, default_mode: AuthMode) -> Result<File, JoinError> {
    let documents = fetch::all(&services).await;
    let merge = spawn_blocking(move || {
        let document = merge::merge(&services, documents, default_mode);
        File::new(HeaderValue::from_static("application/json"), document.into())
    });
    merge.await
}

fn method_not_allowed() -> Response<Full<Bytes>> {
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path is read-only; use GET or HEAD");
    let mut response = problem.into_http();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response.map(Full::new)
}

fn redirect_to_page() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/docs/"));
    response
}

#[cfg(test)]
mod tests;
