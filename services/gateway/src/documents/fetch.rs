//! Asks services for their documents.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom as _;
use serde_json::Value;
use tokio::{net::TcpStream, time};

use crate::services::Service;

/// How long a service has for its document.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long all services together have: with more than [`AT_A_TIME`] of which none answers, those that come last are
/// not asked any more.
const TIMEOUT_OF_ALL: Duration = Duration::from_secs(4);

/// How many services are asked at a time.
const AT_A_TIME: usize = 64;

/// The longest document that is taken, in bytes.
const MAX_LENGTH: usize = 4 * 1024 * 1024;

/// The same for all documents together: read, they take some ten times as much memory.
const MAX_LENGTH_OF_ALL: usize = 16 * 1024 * 1024;

/// Why there is no document of a service, for its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// None of its pods is ready.
    NoEndpoint,
    /// It did not answer in time, or not as HTTP asks for.
    NoAnswer,
    /// It says that there is none.
    NoDocument,
    /// Longer than anybody reads.
    TooLong,
    /// With those that came before it.
    TooLongTogether,
    /// Neither OpenAPI 3.0 nor 3.1.
    NotOpenApi,
    /// It names parts that it does not have.
    Dangling,
    /// None of what it describes is reached through the gateway.
    NothingRouted,
}

impl Absence {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no endpoint is ready",
            Self::NoAnswer => "it does not answer",
            Self::NoDocument => "it has no document",
            Self::TooLong => "its document is too long",
            Self::TooLongTogether => "the documents of all services are too long together",
            Self::NotOpenApi => "its document is not one of OpenAPI 3.0 or 3.1",
            Self::Dangling => "its document refers to parts that it does not have",
            Self::NothingRouted => "its document describes no path that is routed to it",
        }
    }
}

/// The documents of services, in their order.
pub(super) async fn all(services: &[Service]) -> Vec<Result<Bytes, Absence>> {
    let mut documents = vec![Err(Absence::NoAnswer); services.len()];
    let mut left = MAX_LENGTH_OF_ALL;
    let endpoints: Vec<_> = services.iter().map(|service| service.http.clone()).collect();
    let fetched = stream::iter(endpoints.into_iter().enumerate())
        .map(|(index, endpoints)| async move { (index, of_service(endpoints).await) })
        .buffer_unordered(AT_A_TIME)
        .for_each(|(index, document)| {
            documents[index] = document.and_then(|bytes| {
                let rest = left.checked_sub(bytes.len()).ok_or(Absence::TooLongTogether)?;
                left = rest;
                Ok(bytes)
            });
            std::future::ready(())
        });
    // Those that have not come by then are not waited for.
    let _ = time::timeout(TIMEOUT_OF_ALL, fetched).await;
    documents
}

/// Reads a document.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Absence> {
    match serde_json::from_slice(bytes) {
        Ok(document @ Value::Object(_)) => Ok(document),
        _ => Err(Absence::NotOpenApi),
    }
}

/// Asks one endpoint, and another one where there is nobody at the first.
async fn of_service(mut endpoints: Vec<SocketAddr>) -> Result<Bytes, Absence> {
    endpoints.shuffle(&mut rand::rng());
    let asked = async {
        let mut outcome = Err(Absence::NoEndpoint);
        for endpoint in endpoints.into_iter().take(2) {
            outcome = of_endpoint(endpoint).await;
            if !matches!(outcome, Err(Absence::NoAnswer)) {
                break;
            }
        }
        outcome
    };
    time::timeout(TIMEOUT, asked).await.unwrap_or(Err(Absence::NoAnswer))
}

async fn of_endpoint(endpoint: SocketAddr) -> Result<Bytes, Absence> {
    let stream = TcpStream::connect(endpoint).await.map_err(|_| Absence::NoAnswer)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Absence::NoAnswer)?;
    let host = HeaderValue::try_from(endpoint.to_string()).map_err(|_| Absence::NoAnswer)?;
    let request = Request::get("/openapi.json")
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("hedgerow-gateway/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Absence::NoAnswer)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(|_| Absence::NoAnswer)?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_server_error() => return Err(Absence::NoAnswer),
            _ => return Err(Absence::NoDocument),
        }
        match Limited::new(response.into_body(), MAX_LENGTH).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(Absence::TooLong),
            Err(_) => Err(Absence::NoAnswer),
        }
    };
    // The connection is driven along, and ends with the answer: no task is left behind.
    tokio::pin!(asked, connection);
    tokio::select! {
        biased;
        outcome = &mut asked => outcome,
        _ = &mut connection => asked.await,
    }
}
