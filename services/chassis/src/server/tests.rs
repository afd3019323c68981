//! Clients that are slow, rude or old, each on a socket of its own.

use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    http::StatusCode,
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use test_harness::{
    process::PATIENCE,
    raw::{self, Raw},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::*;

const LIMITS: Limits = Limits {
    header_read_timeout: Duration::from_millis(400),
    write_timeout: Duration::from_millis(400),
    http_2_age: Duration::from_mins(1),
};
/// Less than the kernel's buffers hold, so that a few of them fill these.
const LARGE: usize = 1024 * 1024;
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server, with a page that waits until it is let go.
struct Server {
    address: SocketAddr,
    phases: watch::Sender<Phase>,
    waiting: Arc<Notify>,
    go: Arc<Notify>,
    task: JoinHandle<()>,
}

type Http2 = (SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>);

async fn server() -> Server {
    server_with(LIMITS).await
}

async fn server_with(limits: Limits) -> Server {
    let (waiting, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = Router::new()
        .route("/", get(async || "hello"))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/refuse", post(async || StatusCode::PAYLOAD_TOO_LARGE))
        .route("/large", get(async || vec![b'x'; LARGE]))
        .route(
            "/wait",
            get({
                let (waiting, go) = (waiting.clone(), go.clone());
                async move || {
                    waiting.notify_one();
                    go.notified().await;
                    "waited"
                }
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (phases, life) = Life::new();
    let task = tokio::spawn(serve(listener, app, life, limits));
    Server { address, phases, waiting, go, task }
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

#[test]
fn our_clients_let_go_of_a_connection_before_our_servers_do() {
    assert!(HEADER_READ_TIMEOUT >= Duration::from_secs(30));
    assert!(HEADER_READ_TIMEOUT > CLIENT_IDLE_TIMEOUT);
    assert_eq!(Limits::default().header_read_timeout, HEADER_READ_TIMEOUT);
}

#[tokio::test]
async fn a_head_that_is_not_completed_closes_the_connection() {
    let server = server().await;
    for part in ["", "P", "G", "GET / HTTP/1.1\r\nhost: test\r\n", "PRI", "PRI * HTTP/2.0\r\n\r\n", &PREFACE[..23]] {
        let begun = Instant::now();
        let mut connection = server.connect().await;
        connection.send(part).await.expect("sent");
        let closed = connection.closed().await.map_err(|error| error.kind());
        // What the server did not read, it resets.
        assert!(matches!(closed, Ok(()) | Err(ErrorKind::ConnectionReset)), "{part:?}: {closed:?}");
        assert!(begun.elapsed() >= LIMITS.header_read_timeout, "{part:?}: after {:?}", begun.elapsed());
        assert!(!connection.rest().starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_gets_no_more_time() {
    let server = server().await;
    let mut connection = server.connect().await;
    connection.send("GET / HTTP/1.1\r\nx: ").await.expect("sent");
    let pace = LIMITS.header_read_timeout / 8;
    let begun = Instant::now();
    while time::timeout(pace, connection.closed()).await.is_err() && connection.send("x").await.is_ok() {
        assert!(begun.elapsed() < LIMITS.header_read_timeout * 20, "it is still open");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_the_limit_and_not_before() {
    let server = server().await;
    let mut connection = server.connect().await;
    for _ in 0..3 {
        // Each request starts the time anew: together these take longer than the limit.
        let pause = time::timeout(LIMITS.header_read_timeout / 2, connection.closed()).await;
        assert!(pause.is_err(), "closed too early");
        connection.send(raw::get("/")).await.expect("sent");
        assert!(!connection.answer().await.expect("an answer").closes());
    }
    let begun = Instant::now();
    connection.send(raw::get("/")).await.expect("sent");
    connection.answer().await.expect("an answer");
    connection.closed().await.expect("closed");
    assert!(begun.elapsed() >= LIMITS.header_read_timeout, "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_goes_on_sending() {
    const LENGTH: usize = 4 * 1024 * 1024;
    let server = server().await;
    let mut connection = server.connect().await;
    connection
        .send(format!("POST /refuse HTTP/1.1\r\nhost: test\r\ncontent-length: {LENGTH}\r\n\r\n"))
        .await
        .expect("sent");
    connection.send(vec![b'x'; LENGTH]).await.expect("it may send all of it");
    let answer = connection.answer().await.expect("an answer");
    assert!(answer.status == 413 && answer.closes(), "{}", answer.head);
    connection.closed().await.expect("closed, and not reset");
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_sends_slowly() {
    let server = server().await;
    let mut connection = server.connect().await;
    connection.send("POST /refuse HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n").await.expect("sent");
    let mut pace = time::interval(io::LINGER_PAUSE / 5);
    for _ in 0..8 {
        pace.tick().await;
        connection.send("x").await.expect("sent");
    }
    assert_eq!(connection.answer().await.expect("an answer").status, 413);
    connection.closed().await.expect("closed, and not reset");
}

/// Else it could send its next request on a connection that is about to be closed.
#[tokio::test]
async fn a_client_whose_body_is_not_read_is_told_that_the_connection_closes() {
    let server = server().await;
    let body = "content-length: 5\r\n\r\nhello";
    let chunks = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let unfinished = "content-length: 6\r\n\r\nhello";
    for (line, status) in [("GET /", 200), ("POST /refuse", 413), ("PUT /", 405), ("POST /nothing", 404)] {
        for body in [body, chunks, unfinished] {
            let mut connection = server.connect().await;
            connection.send(format!("{line} HTTP/1.1\r\nhost: test\r\n{body}")).await.expect("sent");
            let answer = connection.answer().await.expect("an answer");
            assert!(answer.status == status && answer.closes(), "{line}: {}", answer.head);
            connection.closed().await.expect("closed, and not reset");
        }
    }
    let mut connection = server.connect().await;
    for body in [body, chunks, "content-length: 0\r\n\r\n"] {
        connection.send(format!("POST /length HTTP/1.1\r\nhost: test\r\n{body}")).await.expect("sent");
        assert!(!connection.answer().await.expect("an answer").closes(), "it was read: {body}");
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_given_up() {
    let server = server().await;
    let mut deaf = server.connect().await;
    let requests = raw::get("/large").repeat(1000);
    let given_up = async { while deaf.send(&requests).await.is_ok() {} };
    time::timeout(PATIENCE, given_up).await.expect("reset");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_its_answer_slowly_gets_all_of_it() {
    let server = server().await;
    let mut slow = server.connect().await;
    slow.send(raw::get("/large").repeat(32)).await.expect("sent");
    let begun = Instant::now();
    for _ in 0..32 {
        time::sleep(LIMITS.write_timeout / 8).await;
        assert_eq!(slow.answer().await.expect("an answer").body.len(), LARGE);
    }
    assert!(begun.elapsed() > LIMITS.write_timeout);
}

#[tokio::test]
async fn an_http_2_client_that_opens_no_window_is_given_up() {
    let server = server_with(Limits { http_2_age: Duration::from_millis(100), ..LIMITS }).await;
    for window in [0, 1] {
        let (mut sender, connection) = server.http_2_with_window(Some(window)).await;
        let answer = sender.send_request(request("/large")).await.expect("the head of an answer");
        // Its body is held, and not read.
        time::timeout(PATIENCE, connection).await.expect("closed").expect("no panic").ok();
        drop(answer);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_has_done_sending_gets_its_answer() {
    let server = server().await;
    for request in [raw::get("/wait"), "GET /wait HTTP/1.0\r\n\r\n".to_owned()] {
        let mut connection = server.connect().await;
        connection.send(request).await.expect("sent");
        connection.finish_sending().await.expect("half closed");
        server.waiting.notified().await;
        server.go.notify_one();
        assert_eq!(connection.answer().await.expect("an answer").body, "waited");
        connection.closed().await.expect("closed");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = server().await;
    let mut connection = server.connect().await;
    let post =
        |body: &str| format!("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.send([post("a"), raw::get("/"), post("ccc")].concat()).await.expect("sent");
    for body in ["1", "hello", "3"] {
        assert_eq!(connection.answer().await.expect("an answer").body, body);
    }
}

#[tokio::test]
async fn http_1_0_is_answered() {
    let server = server().await;
    let mut connection = server.connect().await;
    connection.send("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await.expect("sent");
    let answer = connection.answer().await.expect("an answer");
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("hello", Some("keep-alive")));
    connection.send("GET / HTTP/1.0\r\n\r\n").await.expect("sent");
    assert_eq!(connection.answer().await.expect("an answer").body, "hello");
    connection.closed().await.expect("closed");
}

#[tokio::test]
async fn http_2_without_tls_is_served_on_the_same_port() {
    let server = server().await;
    let (mut sender, _connection) = server.http_2().await;
    for _ in 0..3 {
        assert_eq!(text(sender.send_request(request("/")).await.expect("an answer")).await, "hello");
    }
    // Also where the preface comes in pieces.
    let mut connection = server.connect().await;
    for piece in [&PREFACE[..3], &PREFACE[3..20], &PREFACE[20..], "\0\0\0\x04\0\0\0\0\0"] {
        let pause = time::timeout(Duration::from_millis(10), connection.closed()).await;
        assert!(pause.is_err());
        connection.send(piece).await.expect("sent");
    }
    // The server's own settings, a frame of type 4.
    while connection.rest().len() < 9 {
        let _ = time::timeout(Duration::from_millis(10), connection.closed()).await;
    }
    assert_eq!(connection.rest()[3], 4);
}

/// Not at the limit for a head, nor by looking again and again for more.
#[tokio::test]
async fn half_a_preface_and_no_more_closes_the_connection_at_once() {
    let server = server_with(Limits { header_read_timeout: PATIENCE * 2, ..LIMITS }).await;
    for part in ["", "PRI", &PREFACE[..23]] {
        let mut connection = server.connect().await;
        connection.send(part).await.expect("sent");
        connection.finish_sending().await.expect("half closed");
        connection.closed().await.expect("closed");
    }
}

#[tokio::test]
async fn goaway_lets_streams_in_flight_finish() {
    let server = server().await;
    let (mut sender, connection) = server.http_2().await;
    let answer = tokio::spawn(sender.send_request(request("/wait")));
    server.waiting.notified().await;
    server.phases.send_replace(Phase::Draining);
    // Others are answered until GOAWAY comes.
    while let Ok(response) = sender.send_request(request("/")).await {
        assert_eq!(text(response).await, "hello");
    }
    server.go.notify_one();
    assert_eq!(text(answer.await.expect("no panic").expect("an answer")).await, "waited");
    connection.await.expect("no panic").expect("closed without an error");
    server.phases.send_replace(Phase::Stopping);
    server.task.await.expect("it stops");
}

#[tokio::test]
async fn a_stop_waits_for_requests_in_flight_and_for_nothing_else() {
    let server = server().await;
    let mut busy = server.connect().await;
    busy.send(raw::get("/wait")).await.expect("sent");
    server.waiting.notified().await;
    let mut idle = server.connect().await;
    idle.send(raw::get("/")).await.expect("sent");
    assert!(!idle.answer().await.expect("an answer").closes());
    let mut unused = server.connect().await;
    server.phases.send_replace(Phase::Stopping);
    idle.closed().await.expect("closed");
    unused.closed().await.expect("closed");
    assert!(!server.task.is_finished());
    server.go.notify_one();
    let answer = busy.answer().await.expect("an answer");
    assert!(answer.body == "waited" && answer.closes(), "{}", answer.head);
    server.task.await.expect("it stops");
}

/// It was on its way when the server began to stop.
#[tokio::test]
async fn a_request_on_an_idle_connection_is_answered_a_moment_after_the_stop() {
    let server = server().await;
    let mut used = server.connect().await;
    used.send(raw::get("/")).await.expect("sent");
    assert!(!used.answer().await.expect("an answer").closes());
    let mut unused = server.connect().await;
    server.phases.send_replace(Phase::Stopping);
    for connection in [&mut used, &mut unused] {
        assert!(time::timeout(LAST_CALL / 10, connection.closed()).await.is_err(), "closed at once");
        connection.send(raw::get("/")).await.expect("sent");
        assert!(connection.answer().await.expect("an answer").closes());
    }
    server.task.await.expect("it stops");
}

#[tokio::test]
async fn connections_that_only_the_kernel_has_accepted_are_served_before_the_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let mut connections = Vec::new();
    for _ in 0..100 {
        let mut connection = Raw::connect(address).await.expect("a connection");
        connection.send(raw::get("/")).await.expect("sent");
        connections.push(connection);
    }
    let (phases, life) = Life::new();
    phases.send_replace(Phase::Stopping);
    let task = tokio::spawn(serve(listener, Router::new().route("/", get(async || "hello")), life, LIMITS));
    for mut connection in connections {
        assert_eq!(connection.answer().await.expect("an answer").body, "hello");
    }
    task.await.expect("it stops");
}
