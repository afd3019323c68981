//! Clients that are slow, rude or old, each on a socket of its own.

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
use test_support::{
    process::{PATIENCE, eventually},
    raw::{self, Raw},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

mod closing;
mod framing;
mod http_1;
mod http_2;

use super::*;

/// Limits that are reached soon.
const LIMITS: Limits = Limits {
    header_read_timeout: Duration::from_millis(400),
    write_timeout: Duration::from_millis(400),
    http_2_age: Duration::from_mins(1),
};
/// Less than the kernel's buffers hold, so that a few of them fill these.
const LARGE: usize = 1024 * 1024;
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server, with a page that waits until it is let go, and one of events that it is let go for one by one.
struct Server {
    address: SocketAddr,
    phases: watch::Sender<Phase>,
    waiting: Arc<Notify>,
    go: Arc<Notify>,
    given_up: Arc<Notify>,
    task: JoinHandle<()>,
}

/// A request, until it has an answer.
struct Unanswered(Arc<Notify>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

type Http2 = (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>);

/// One whose limits are of no concern: a pause of the machine is not to reach them.
async fn server() -> Server {
    server_with(Limits::default()).await
}

async fn server_with(limits: Limits) -> Server {
    server_of(super::Server { limits, ..Default::default() }).await
}

async fn server_of(server: super::Server) -> Server {
    let [waiting, go, given_up] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let app = Router::new()
        .route("/", get(async || "hello"))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/refuse", post(async || StatusCode::PAYLOAD_TOO_LARGE))
        .route("/large", get(async || vec![b'x'; LARGE]))
        .route(
            "/wait",
            get({
                let (waiting, go, given_up) = (waiting.clone(), go.clone(), given_up.clone());
                async move || {
                    let unanswered = Unanswered(given_up);
                    waiting.notify_one();
                    go.notified().await;
                    std::mem::forget(unanswered);
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
    Server { address, phases, waiting, go, given_up, task }
}

impl Server {
    async fn connect(&self) -> Raw {
        Raw::connect(self.address).await.expect("a connection")
    }

    async fn http_2(&self) -> Http2 {
        self.http_2_with_window(None).await
    }

    /// With how many bytes of an answer's body the client takes, unless it is told to go on.
    async fn http_2_with_window(&self, window: Option<u32>) -> Http2 {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let handshake = builder.initial_stream_window_size(window).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("an HTTP/2 connection");
        (sender, tokio::spawn(connection))
    }

    /// Stops, and waits for the end of every connection.
    async fn stop(self) {
        self.phases.send_replace(Phase::Stopping);
        time::timeout(PATIENCE, self.task).await.expect("it stops").expect("no panic");
    }
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://test{path}")).body(Empty::new()).expect("a valid request")
}

async fn text(response: http::Response<Incoming>) -> Bytes {
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    response.into_body().collect().await.expect("a body").to_bytes()
}
