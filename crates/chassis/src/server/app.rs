//! What answers the requests that a server takes: a service's routes, or something that passes them on.

use std::{convert::Infallible, error::Error, net::SocketAddr};

use axum::Router;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tower::ServiceExt;

use super::RequestBody;

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The other end of its connection.
    pub address: SocketAddr,
    /// The number of the thread that serves the connection; see [`Workers`](super::Workers).
    pub worker: usize,
}

/// What answers requests; a clone is made for each of them.
pub trait App: Clone + Send + Sync + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Answers a request. An answer of 101 gives the connection away, to who has asked hyper for it.
    fn answer(self, request: Request<RequestBody>, peer: Peer) -> impl Future<Output = Response<Self::Body>> + Send;
}

impl App for Router {
    type Body = axum::body::Body;

    async fn answer(self, request: Request<RequestBody>, _: Peer) -> Response<Self::Body> {
        // An empty one is not worth a box.
        let body = |body: RequestBody| {
            if body.is_end_stream() { axum::body::Body::empty() } else { axum::body::Body::new(body) }
        };
        self.oneshot(request.map(body)).await.unwrap_or_else(|error: Infallible| match error {})
    }
}
