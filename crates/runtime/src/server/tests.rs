//! Tests with slow, misbehaving and old clients, each on its own socket.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioExecutor;
use test_support::{
    process::{TIMEOUT, eventually},
    raw::{self, Raw},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

mod closing;
mod connection_limit;
mod framing;
mod http_1;
mod http_2;

use super::*;

/// Short timeouts.
const TIMEOUTS: Timeouts = Timeouts {
    request_head_timeout: Duration::from_millis(400),
    write_timeout: Duration::from_millis(400),
    http_2_age: Duration::from_mins(1),
};
/// The length of a large body. A few of them fill the kernel's buffers.
const LARGE: usize = 1024 * 1024;
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server under test. `/wait` responds when `go` is notified, and `/events` sends one event per notification.
struct Server {
    address: SocketAddr,
    phases: watch::Sender<Phase>,
    waiting: Arc<Notify>,
    go: Arc<Notify>,
    abandoned: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Notifies when a request is dropped before its response.
struct Pending(Arc<Notify>);

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

type Http2 = (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>);

/// Starts a server with the default timeouts, which a pause of the machine does not reach.
async fn server() -> Server {
    server_with(Timeouts::default()).await
}

async fn server_with(timeouts: Timeouts) -> Server {
    server_of(super::Server { timeouts, ..Default::default() }).await
}

async fn server_of(server: super::Server) -> Server {
    let [waiting, go, abandoned] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let app = Router::new()
        .route("/", get(async || "hello"))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/refuse", post(async || StatusCode::PAYLOAD_TOO_LARGE))
        .route("/large", get(async || vec![b'x'; LARGE]))
        .route(
            "/wait",
            get({
                let (waiting, go, abandoned) = (waiting.clone(), go.clone(), abandoned.clone());
                async move || {
                    let pending = Pending(abandoned);
                    waiting.notify_one();
                    go.notified().await;
                    std::mem::forget(pending);
                    "waited"
                }
            }),
        )
        .route(
            "/events",
            get({
                let go = go.clone();
                async move || {
                    let events = stream::unfold(go, async |go| {
                        go.notified().await;
                        Some((Ok::<_, Infallible>("event"), go))
                    });
                    axum::body::Body::from_stream(events)
                }
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (phases, lifecycle) = Lifecycle::new();
    let task = tokio::spawn(server.serve(listener, app, lifecycle));
    Server { address, phases, waiting, go, abandoned, task }
}

impl Server {
    async fn connect(&self) -> Raw {
        Raw::connect(self.address).await.expect("a connection")
    }

    async fn http_2(&self) -> Http2 {
        self.http_2_with_window(None).await
    }

    /// Opens a connection with this initial window for response bodies.
    async fn http_2_with_window(&self, window: Option<u32>) -> Http2 {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let handshake = builder.initial_stream_window_size(window).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("an HTTP/2 connection");
        (sender, tokio::spawn(connection))
    }

    /// Stops the server and waits until every connection is closed.
    async fn stop(self) {
        self.phases.send_replace(Phase::Stopping);
        time::timeout(TIMEOUT, self.task).await.expect("the server stops").expect("no panic");
    }
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://test{path}")).body(Empty::new()).expect("a valid request")
}

async fn text(response: http::Response<Incoming>) -> Bytes {
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    response.into_body().collect().await.expect("a body").to_bytes()
}
