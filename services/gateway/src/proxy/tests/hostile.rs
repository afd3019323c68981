//! Attacks of clients and services that try to occupy the gateway. None of them may keep other clients from being
//! served.

use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    task::JoinSet,
};

use super::{
    limits::QUICK,
    stub::{Body, full_body, read_head},
    *,
};

/// More than the first window of a stream.
const LARGE: usize = 1024 * 1024;

const IN_FLIGHT: &str = "http_requests_in_flight";
pub(super) const UPSTREAM_IN_FLIGHT: &str = r#"gateway_upstream_requests_in_flight{service="test"}"#;

/// Connects from another address than the other clients.
pub(super) async fn from_elsewhere(gateway: &TestGateway) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("a loopback address");
    socket.connect(gateway.address).await
}

/// Sends a request from another address, and returns the status of the response.
async fn status_elsewhere(gateway: &TestGateway) -> StatusCode {
    let stream = from_elsewhere(gateway).await.expect("a connection");
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let response = sender.send_request(request(Method::GET, "/test", "")).await.expect("a response");
    TestResponse::read(response).await.expect("a complete response").status
}

pub(super) async fn http_2_with_window(address: SocketAddr, window: u32) -> conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let mut builder = conn::http2::Builder::new(TokioExecutor::new());
    let handshake = builder.initial_stream_window_size(window).handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender
}

pub(super) fn with_body(method: Method, path: &str, media_type: &'static str, body: Body) -> Request<Body> {
    let uri = format!("http://shop.example{path}");
    Request::builder().method(method).uri(uri).header("content-type", media_type).body(body).expect("a request")
}

/// A body that never comes.
fn endless() -> Body {
    BodyExt::boxed(StreamBody::new(stream::pending::<io::Result<Frame<Bytes>>>()))
}

#[tokio::test]
async fn a_client_that_opens_no_window_does_not_keep_others_out() {
    let stub = Stub::responding(async |_| Response::new(full_body(vec![b'x'; LARGE]))).await;
    let flags = ["--total-timeout=2s", "--max-in-flight=8", "--max-in-flight-per-client=6"];
    let gateway = TestGateway::with(&flags, &[&stub]);
    for window in [0, 1, 65_535] {
        let mut attacker = http_2_with_window(gateway.address, window).await;
        let mut held = Vec::new();
        for _ in 0..20 {
            let request = with_body(Method::GET, "/test", "text/plain", full_body(""));
            held.push(attacker.send_request(request).await.expect("a response head"));
        }
        assert!(held.iter().filter(|response| response.status() == 200).count() >= 6);
        assert_eq!(status_elsewhere(&gateway).await, 200, "{window}");
        gateway.metric_becomes(IN_FLIGHT, 0).await;
        gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 0).await;
        assert!(!attacker.is_closed(), "only the streams are reset");
    }
}

/// Neither over HTTP/1.1, on which the transport waits for the client, too.
#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off_at_the_total_timeout() {
    let stub = Stub::responding(async |_| Response::new(full_body(vec![b'x'; 64 * LARGE]))).await;
    let gateway = TestGateway::with(&["--total-timeout=1s"], &[&stub]);
    let mut client = TcpStream::connect(gateway.address).await.expect("a connection");
    client.write_all(b"GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let line = &gateway.log(1).await[0];
    assert_eq!((&line["status"], &line["complete"]), (&200.into(), &false.into()));
    assert!(line["duration"].as_f64().is_some_and(|duration| duration < 20.0), "{line}");
}

#[tokio::test]
async fn requests_whose_body_never_comes_end() {
    let stub = Stub::responding(async |request| {
        let _ = request.into_body().collect().await;
        Response::new(full_body("done"))
    })
    .await;
    let services = vec![Service { grpc: Some(vec![stub.address]), ..service("test", &["/test"], &[stub.address]) }];
    let gateway = TestGateway::of(&QUICK, services);
    for (media_type, status) in [("text/plain", 408), ("application/grpc", 200)] {
        let mut attacker = http_2_with_window(gateway.address, 65_535).await;
        let response = attacker.send_request(with_body(Method::POST, "/test", media_type, endless())).await;
        assert_eq!(response.expect("a response").status(), status, "{media_type}");
        gateway.metric_becomes(IN_FLIGHT, 0).await;
        gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 0).await;
    }
}

#[tokio::test]
async fn a_client_has_only_a_share_of_what_is_in_flight() {
    let stub = Stub::raw(async |mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = TestGateway::with(&["--max-in-flight=8", "--trusted-hops=1"], &[&stub]);
    let mut held = Vec::new();
    let mut send = async |client: &str, count: usize| {
        for _ in 0..count {
            let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
            let request = format!("GET /test HTTP/1.1\r\nhost: a\r\nx-forwarded-for: {client}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("sent");
            held.push(stream);
        }
    };
    send("192.0.2.1", 2).await;
    gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 2).await;
    let mut third = request(Method::GET, "/test", "");
    third.headers_mut().insert("x-forwarded-for", http::HeaderValue::from_static("192.0.2.1"));
    assert_eq!(gateway.send(third).await.problem(), (429, "rate-limited".to_owned()));
    send("192.0.2.2", 2).await;
    gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 4).await;
    drop(held);
    gateway.metric_becomes(IN_FLIGHT, 0).await;
}

#[tokio::test]
async fn endless_framing_without_content_ends() {
    let chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;";
    for (start, piece) in [("", "HTTP/1.1 100 Continue\r\n\r\n"), (chunk, "xxxxxxxxxxxxxxxxxxxxxxxxx")] {
        let stub = Stub::raw(move |mut stream, _| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(start.as_bytes()).await;
            let pieces = piece.repeat(2000);
            while stream.write_all(pieces.as_bytes()).await.is_ok() {}
        })
        .await;
        let gateway = TestGateway::with(&[], &[&stub]);
        let response = http_1(gateway.address).await.send_request(request(Method::POST, "/test", "x"));
        let outcome = async { TestResponse::read(response.await?).await };
        let outcome = tokio::time::timeout(TIMEOUT / 2, outcome).await.expect("an end before the timeouts");
        assert!(outcome.is_err() || outcome.is_ok_and(|response| response.status == 502), "{start}");
        assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="protocol",service="test"}"#), 1, "{start}");
    }
}

/// Encodes an HTTP/2 frame (RFC 9113, section 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn streams_that_are_reset_at_once_cost_no_connections() {
    const STREAMS: u32 = 200;
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut attacker = TcpStream::connect(gateway.address).await.expect("a connection");
    attacker.set_nodelay(true).expect("set");
    // The preface, and empty settings. Those of the gateway show that the connection is served.
    let start = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, b"")].concat();
    attacker.write_all(&start).await.expect("sent");
    attacker.read_exact(&mut [0; 9]).await.expect("a frame");
    // GET, http, /test and the authority (RFC 7541, appendix A and section 6.2).
    let get = |stream| frame(1, 0b101, stream, b"\x82\x86\x04\x05/test\x41\x04shop");
    for stream in (0..STREAMS).map(|number| 2 * number + 1) {
        let reset = frame(3, 0, stream, &8_u32.to_be_bytes());
        attacker.write_all(&[get(stream), reset].concat()).await.expect("sent");
    }
    attacker.write_all(&get(2 * STREAMS + 1)).await.expect("sent");
    let mut received = Vec::new();
    while !received.windows(5).any(|window| window == b"hello") {
        let read = tokio::time::timeout(TIMEOUT, attacker.read_buf(&mut received)).await;
        assert!(read.expect("a response in time").expect("a response") > 0);
    }
    // One whose reset arrives later may be served.
    let connections = stub.connections();
    assert!(connections < 20, "{connections} connections for {STREAMS} streams");
}

type Client = conn::http1::SendRequest<Full<Bytes>>;

/// Sends a request on a connection, which then stays open; `None` if it is refused.
async fn served(stream: io::Result<TcpStream>) -> Option<(Client, Response<Incoming>)> {
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream.ok()?)).await.ok()?;
    tokio::spawn(connection);
    let response = sender.send_request(request(Method::GET, "/test", "")).await.ok()?;
    assert_eq!(response.status(), 200);
    Some((sender, response))
}

#[tokio::test]
async fn connections_beyond_the_limits_are_reset() {
    // The responses do not end, so that no connection is idle.
    let stub = Stub::raw(async |mut stream, _| {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let flags = ["--max-connections=10", "--max-connections-per-client=8"];
    let gateway = TestGateway::with(&flags, &[&stub]);
    let connect = || TcpStream::connect(gateway.address);
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(served(connect().await).await.expect("a response"));
    }
    assert!(served(connect().await).await.is_none(), "too many of one client");
    for _ in 0..2 {
        held.push(served(from_elsewhere(&gateway).await).await.expect("a response"));
    }
    assert!(served(from_elsewhere(&gateway).await).await.is_none(), "too many in total");
    held.remove(0);
    let next = eventually("a connection is free", TIMEOUT, async || served(connect().await).await).await;
    drop((held, next));
    let gateway = TestGateway::with(&[&flags[..], &["--trusted-hops=1"]].concat(), &[&stub]);
    let mut held = Vec::new();
    for _ in 0..10 {
        // The peer is a proxy, and not a client.
        held.push(served(TcpStream::connect(gateway.address).await).await.expect("a response"));
    }
    assert!(served(TcpStream::connect(gateway.address).await).await.is_none(), "too many in total");
}

#[tokio::test]
async fn idle_connections_make_room_for_those_of_other_clients() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&["--max-connections=10", "--max-connections-per-client=10"], &[&stub]);
    let mut idle = Vec::new();
    for _ in 0..10 {
        let (client, response) = served(TcpStream::connect(gateway.address).await).await.expect("a response");
        assert_eq!(TestResponse::read(response).await.expect("a complete response").text(), "hello");
        idle.push(client);
    }
    let what = "a connection of another client is served";
    let _held = eventually(what, TIMEOUT, async || served(from_elsewhere(&gateway).await).await).await;
    eventually("the oldest connection is closed", TIMEOUT, async || idle[0].is_closed().then_some(())).await;
    assert!(idle[1..].iter().all(|client| !client.is_closed()), "only one is closed");
}

/// A client may have as many streams on a few of them as on many of HTTP/1.1.
#[tokio::test]
async fn a_client_may_have_fewer_http_2_connections() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&["--max-connections-per-client=20"], &[&stub]);
    let get = || with_body(Method::GET, "/test", "text/plain", full_body(""));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = http_2(gateway.address).await;
        assert_eq!(client.send_request(get()).await.expect("a response").status(), 200);
        held.push(client);
    }
    let third = http_2(gateway.address).await.send_request(get()).await;
    assert!(third.is_err(), "{third:?}");
    drop(held);
    eventually("a connection is free", TIMEOUT, async || http_2(gateway.address).await.send_request(get()).await.ok())
        .await;
}

/// Otherwise the content of any number of them would be kept.
#[tokio::test]
async fn refusals_that_a_client_does_not_read_have_no_content() {
    let stub = Stub::raw(async |mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let gateway = TestGateway::with(&["--max-in-flight=8"], &[&stub]);
    let get = || with_body(Method::GET, "/test", "text/plain", full_body(""));
    let mut held = Vec::new();
    let (mut attackers, mut waiting) = (Vec::new(), JoinSet::new());
    for _ in 0..3 {
        let mut attacker = http_2_with_window(gateway.address, 0).await;
        if attackers.is_empty() {
            for _ in 0..2 {
                waiting.spawn(attacker.send_request(get()));
            }
            gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 2).await;
        }
        for _ in 0..200 {
            let response = attacker.send_request(get()).await.expect("a response head");
            assert_eq!(response.status(), 429);
            held.push(response);
        }
        attackers.push(attacker);
    }
    let (without, with): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|response| http_body::Body::is_end_stream(response.body()));
    assert_eq!((with.len(), without.len()), (256, 600 - 256));
    assert!(without.iter().all(|response| !response.headers().contains_key("content-type")));
    assert_eq!(gateway.metric(IN_FLIGHT), 2, "they do not count as in flight");
    drop((with, without, attackers, waiting));
    gateway.metric_becomes(IN_FLIGHT, 0).await;
}
