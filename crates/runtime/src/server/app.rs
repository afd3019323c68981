//! The application behind a server: the routes of a service, or a proxy.

use std::{convert::Infallible, error::Error, net::SocketAddr};

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::time::Instant;
use tower::ServiceExt;

use super::body::RequestBody;

/// The origin of a request.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The remote address of the connection.
    pub address: SocketAddr,
    /// The number of the thread that serves the connection; see [`Workers`](super::Workers).
    pub worker: usize,
}

/// When the client must have read a response. An [`App`] puts it into the extensions of the response. It holds even
/// while the transport waits for the client and does not poll the body: then the HTTP/2 stream is reset, or the
/// HTTP/1.1 connection closed.
#[derive(Debug, Clone, Copy)]
pub struct ReadDeadline(pub Instant);

/// An application that responds to requests. It is cloned for each request.
pub trait App: Clone + Send + Sync + 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Responds to a request. A response with status 101 hands the connection over to the task that awaits hyper's
    /// upgrade.
    fn respond(self, request: Request<RequestBody>, peer: Peer) -> impl Future<Output = Response<Self::Body>> + Send;
}

impl App for Router {
    type Body = axum::body::Body;

    async fn respond(self, request: Request<RequestBody>, _: Peer) -> Response<Self::Body> {
        // Avoids an allocation for an empty body.
        let body = |body: RequestBody| {
            if body.is_end_stream() { axum::body::Body::empty() } else { axum::body::Body::new(body) }
        };
        self.oneshot(request.map(body)).await.unwrap_or_else(|error: Infallible| match error {})
    }
}
