//! Fetches the OpenAPI documents of services.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom as _;
use tokio::{net::TcpStream, time};

use crate::discovery::Service;

/// Time limit for the document of one service.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit for all documents together. If more than [`CONCURRENCY`] services do not respond, the last ones are not
/// asked at all.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(4);

/// The maximum number of services that are asked at once.
const CONCURRENCY: usize = 64;

/// The length limit of one document, in bytes.
const MAX_LENGTH: usize = 4 * 1024 * 1024;

/// The length limit of all documents together, in bytes. What is built of them has a limit of its own.
const MAX_TOTAL_LENGTH: usize = 16 * 1024 * 1024;

/// The reason why a service has no usable document. Its text is shown to readers of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("no ready endpoint")]
    NoEndpoint,
    /// No endpoint sent a complete response in time, or the response was a 5xx.
    #[error("document could not be fetched")]
    NotFetched,
    /// A response other than 200 and 5xx.
    #[error("no document at /openapi.json")]
    NotFound,
    #[error("document is larger than 4 MiB")]
    TooLong,
    #[error("the documents of all services together are larger than 16 MiB")]
    TooLongTogether,
    #[error("document would take too much memory")]
    TooMuchMemory,
    #[error("the merged document would be larger than 16 MiB")]
    TooLargeMerged,
    #[error("not an OpenAPI 3.0 or 3.1 document")]
    NotOpenApi,
    #[error("document has references that cannot be resolved within it")]
    Dangling,
    #[error("document has no path that is routed to this service")]
    NothingRouted,
}

/// Fetches the documents of services, in the same order.
pub(super) async fn all(services: &[Service]) -> Vec<Result<Bytes, DocumentError>> {
    let mut documents = vec![Err(DocumentError::NotFetched); services.len()];
    let mut budget = MAX_TOTAL_LENGTH;
    let endpoints: Vec<_> = services.iter().map(|service| service.http.clone()).collect();
    let fetched = stream::iter(endpoints.into_iter().enumerate())
        .map(|(index, endpoints)| async move { (index, of_service(endpoints).await) })
        .buffer_unordered(CONCURRENCY)
        .for_each(|(index, document)| {
            documents[index] = document.and_then(|bytes| {
                let rest = budget.checked_sub(bytes.len()).ok_or(DocumentError::TooLongTogether)?;
                budget = rest;
                Ok(bytes)
            });
            std::future::ready(())
        });
    // Documents that are still missing after the timeout stay errors.
    let _ = time::timeout(TOTAL_TIMEOUT, fetched).await;
    documents
}

/// Asks one endpoint and, if the document could not be fetched from it, another one.
async fn of_service(mut endpoints: Vec<SocketAddr>) -> Result<Bytes, DocumentError> {
    endpoints.shuffle(&mut rand::rng());
    let attempts = async {
        let mut outcome = Err(DocumentError::NoEndpoint);
        for endpoint in endpoints.into_iter().take(2) {
            outcome = of_endpoint(endpoint).await;
            if !matches!(outcome, Err(DocumentError::NotFetched)) {
                break;
            }
        }
        outcome
    };
    time::timeout(TIMEOUT, attempts).await.unwrap_or(Err(DocumentError::NotFetched))
}

async fn of_endpoint(endpoint: SocketAddr) -> Result<Bytes, DocumentError> {
    let stream = TcpStream::connect(endpoint).await.map_err(|_| DocumentError::NotFetched)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|_| DocumentError::NotFetched)?;
    let host = HeaderValue::try_from(endpoint.to_string()).map_err(|_| DocumentError::NotFetched)?;
    let request = Request::get("/openapi.json")
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("hedgerow-gateway/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| DocumentError::NotFetched)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|_| DocumentError::NotFetched)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_server_error() => return Err(DocumentError::NotFetched),
            _ => return Err(DocumentError::NotFound),
        }
        match Limited::new(response.into_body(), MAX_LENGTH).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(DocumentError::TooLong),
            Err(_) => Err(DocumentError::NotFetched),
        }
    };
    // The connection is polled alongside and dropped with the response, so that no task is left behind.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        _ = &mut connection => exchange.await,
    }
}
