//! gRPC services that use the freedom of HTTP/2: they lower the limit of streams, end responses early, and neither read
//! nor reset. None of that may hold up a call for long, or occupy the gateway.

use std::collections::HashSet;

use futures_util::stream;
use http_body_util::StreamBody;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    task::JoinSet,
};

use super::{
    super::{http2::Pool, replayable_body::ReplayableBody},
    grpc::with_grpc,
    hostile::{UPSTREAM_IN_FLIGHT, frame, from_elsewhere, with_body},
    sharing::{CHUNK, chunks, stuck},
    stub::{Body, full_body},
    *,
};
use crate::metrics::UpstreamError;

pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// How many connections a test opens so that each thread of the gateway has some.
const CONNECTIONS: usize = 4;

/// A frame that the gateway sent.
#[derive(Clone, Copy)]
pub(super) struct Received {
    /// The number of the connection.
    connection: usize,
    pub(super) kind: u8,
    pub(super) stream: u32,
}

/// A service that responds to each frame with other frames.
pub(super) async fn service(respond: impl Fn(Received) -> Vec<u8> + Clone + Send + Sync + 'static) -> Stub {
    Stub::raw(move |stream, number| serve(stream, number, respond.clone())).await
}

pub(super) async fn serve(mut stream: TcpStream, connection: usize, respond: impl Fn(Received) -> Vec<u8> + Send) {
    let _ = stream.write_all(&settings(100)).await;
    let _ = stream.read_exact(&mut [0; 24]).await;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Ok(_) = stream.read_exact(&mut payload).await else { return };
        let response = match head[3] {
            SETTINGS | PING if head[4] & ACK == 0 => {
                let content = if head[3] == PING { &payload[..] } else { &[] };
                frame(head[3], ACK, 0, content)
            }
            kind => respond(Received { connection, kind, stream: id }),
        };
        let _ = stream.write_all(&response).await;
    }
}

/// The settings of a service that allows this many streams.
fn settings(streams: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&[0, 3], &streams.to_be_bytes()[..]].concat())
}

/// A response of 200 (RFC 7541, appendix A).
fn response(stream: u32, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, b"\x88")
}

fn call(body: Body) -> Request<Body> {
    with_body(Method::POST, "/test.v1.Test/Call", "application/grpc", body)
}

/// A body that goes on.
fn open_body() -> Body {
    let first = stream::once(async { Ok(http_body::Frame::data(Bytes::from_static(b"begun"))) });
    let rest = stream::pending::<io::Result<http_body::Frame<Bytes>>>();
    BodyExt::boxed(StreamBody::new(futures_util::StreamExt::chain(Box::pin(first), rest)))
}

fn gateway(stub: &Stub) -> TestGateway {
    TestGateway::of(&[], with_grpc(&[], Some(vec![stub.address])))
}

/// Sends a call that nothing must hold up.
async fn respond_in_time(client: &mut conn::http2::SendRequest<Body>) -> Response<Incoming> {
    let response = client.send_request(call(full_body("x")));
    let response = tokio::time::timeout(TIMEOUT / 2, response).await.expect("a response in time");
    response.expect("a response")
}

#[tokio::test]
async fn a_call_does_not_wait_if_the_stream_limit_was_lowered() {
    let first = Arc::<AtomicUsize>::default();
    let stub = service(move |Received { kind, stream, .. }| match kind {
        // The first response stays open, and no other stream is allowed beside it.
        HEADERS if first.fetch_add(1, Ordering::SeqCst) == 0 => [settings(1), response(stream, 0)].concat(),
        HEADERS => response(stream, END_STREAM),
        _ => Vec::new(),
    })
    .await;
    let gateway = gateway(&stub);
    let mut client = http_2(gateway.address).await;
    let _held = respond_in_time(&mut client).await;
    for _ in 0..3 {
        respond_in_time(&mut client).await;
    }
    assert_eq!(stub.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_allows_no_more_streams_is_closed() {
    const CALLS: usize = 10;
    let open = Arc::<AtomicUsize>::default();
    let count = open.clone();
    let stub = Stub::raw(move |stream, number| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let respond = |Received { kind, stream, .. }| match kind {
                HEADERS => [settings(0), response(stream, END_STREAM)].concat(),
                _ => Vec::new(),
            };
            serve(stream, number, respond).await;
            count.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let gateway = gateway(&stub);
    let mut client = http_2(gateway.address).await;
    for _ in 0..CALLS {
        respond_in_time(&mut client).await;
        gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 0).await;
    }
    eventually("the connections are closed", TIMEOUT, async || (open.load(Ordering::SeqCst) <= 1).then_some(())).await;
}

/// Each connection has room for one call, and takes a while to open. The calls of a client wait for one after the other.
#[tokio::test]
async fn calls_wait_for_a_stream_for_a_limited_time() {
    let stub = Stub::raw(async |mut stream, _| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let _ = stream.write_all(&settings(1)).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let pool = Pool::default();
    let calls = (0..6).map(|_| pool.stream(1, stub.address, Duration::from_secs(1)));
    let (with, without): (Vec<_>, Vec<_>) =
        futures_util::future::join_all(calls).await.into_iter().partition(Result::is_ok);
    assert!(!with.is_empty() && !without.is_empty(), "{} {}", with.len(), without.len());
    let errors = without.into_iter().filter_map(Result::err);
    assert!(errors.map(|error| error.kind()).all(|kind| kind == io::ErrorKind::TimedOut));
}

/// The limit was lowered after the stream was reserved, so hyper waits.
#[tokio::test]
async fn a_call_that_gets_no_stream_fails_in_time() {
    let lower = Arc::new(Notify::new());
    let stub = Stub::raw({
        let lower = lower.clone();
        move |mut stream, number| {
            let lower = lower.clone();
            async move {
                let _ = stream.write_all(&settings(100)).await;
                if number == 0 {
                    lower.notified().await;
                    let _ = stream.write_all(&settings(0)).await;
                }
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    })
    .await;
    let pool = Pool::default();
    let mut reserved = pool.stream(1, stub.address, TIMEOUT).await.expect("a stream");
    lower.notify_one();
    eventually("the new limit has arrived", TIMEOUT, async || {
        drop(pool.stream(1, stub.address, TIMEOUT).await.expect("a stream"));
        (stub.connections() == 2).then_some(())
    })
    .await;
    let request = Request::post("http://shop.example/").body(ReplayableBody::default().attempt()).expect("a request");
    let failed = tokio::time::timeout(TIMEOUT, reserved.send(request)).await.expect("a result in time");
    let error = failed.expect_err("an error");
    assert_eq!((error.kind, error.is_unsent), (UpstreamError::Timeout, false), "{}", error.reason);
}

#[tokio::test]
async fn an_upload_ends_with_the_response_to_it() {
    const CALLS: usize = 5;
    let resets = Arc::<AtomicUsize>::default();
    let count = resets.clone();
    let stub = service(move |Received { kind, stream, .. }| match kind {
        HEADERS => response(stream, END_STREAM),
        RST_STREAM => {
            count.fetch_add(1, Ordering::SeqCst);
            Vec::new()
        }
        _ => Vec::new(),
    })
    .await;
    let gateway = gateway(&stub);
    let mut client = http_2(gateway.address).await;
    for _ in 0..CALLS {
        assert_eq!(client.send_request(call(open_body())).await.expect("a response").status(), 200);
    }
    eventually("the uploads end", TIMEOUT, async || (resets.load(Ordering::SeqCst) == CALLS).then_some(())).await;
}

/// The service may count what it has not read against the connection, and resets too.
#[tokio::test]
async fn a_connection_of_a_call_that_was_cut_off_gets_no_other_client() {
    let [cut, used] = [(); 2].map(|()| Arc::<Mutex<HashSet<usize>>>::default());
    let is_cut = Arc::<std::sync::atomic::AtomicBool>::default();
    let stub = service({
        let (cut, used, is_cut) = (cut.clone(), used.clone(), is_cut.clone());
        move |Received { kind, stream, connection }| match kind {
            HEADERS if is_cut.load(Ordering::SeqCst) => {
                used.lock().expect("a lock").insert(connection);
                response(stream, END_STREAM)
            }
            HEADERS => {
                cut.lock().expect("a lock").insert(connection);
                Vec::new()
            }
            _ => Vec::new(),
        }
    })
    .await;
    let gateway = gateway(&stub);
    for number in 0..CONNECTIONS {
        let stream = from_elsewhere(&gateway).await.expect("a connection");
        let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut attacker, connection) = handshake.await.expect("an HTTP/2 connection");
        tokio::spawn(connection);
        let call = tokio::spawn(async move { attacker.send_request(call(open_body())).await });
        eventually("the call has arrived", TIMEOUT, async || {
            (gateway.metric(UPSTREAM_IN_FLIGHT) == 1 && stub.connections() > 0).then_some(())
        })
        .await;
        tokio::time::sleep(MOMENT / 2).await;
        call.abort();
        gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 0).await;
        assert!(!cut.lock().expect("a lock").is_empty(), "{number}");
    }
    is_cut.store(true, Ordering::SeqCst);
    for _ in 0..CONNECTIONS {
        respond_in_time(&mut http_2(gateway.address).await).await;
    }
    let (cut, used) = (cut.lock().expect("a lock"), used.lock().expect("a lock"));
    assert!(cut.is_disjoint(&used), "{cut:?} {used:?}");
}

#[tokio::test]
async fn little_is_received_of_an_upload_that_is_not_read() {
    // The service opens no window.
    let stub = service(|_| Vec::new()).await;
    let gateway = gateway(&stub);
    let taken = Arc::<AtomicUsize>::default();
    let mut client = http_2(gateway.address).await;
    let body = chunks(usize::MAX, &taken);
    tokio::spawn(async move { client.send_request(call(body)).await });
    stuck(&taken).await;
    let received = taken.load(Ordering::SeqCst) * CHUNK;
    // What the service takes, and as much in the gateway.
    assert!(received <= 3 * 64 * 1024, "{received} bytes");
}

/// The peer of the connection is a proxy.
#[tokio::test]
async fn an_unread_upload_leaves_other_clients_of_a_connection_room() {
    let grpc = service(|_| Vec::new()).await;
    let http = Stub::responding(async |request| {
        let body = request.into_body().collect().await.expect("a body");
        Response::new(full_body(body.to_bytes()))
    })
    .await;
    let services = with_grpc(&[http.address], Some(vec![grpc.address]));
    let gateway = TestGateway::of(&["--trusted-hops=1"], services);
    let mut proxy = http_2(gateway.address).await;
    let taken = Arc::<AtomicUsize>::default();
    let from = |client: &'static str, mut request: Request<Body>| {
        request.headers_mut().insert("x-forwarded-for", http::HeaderValue::from_static(client));
        request
    };
    for _ in 0..3 {
        let mut proxy = proxy.clone();
        let upload = from("192.0.2.1", call(chunks(usize::MAX, &taken)));
        tokio::spawn(async move { proxy.send_request(upload).await });
    }
    stuck(&taken).await;
    let post = with_body(Method::POST, "/test", "text/plain", full_body("hello"));
    let response = proxy.send_request(from("192.0.2.2", post));
    let response = tokio::time::timeout(TIMEOUT / 2, response).await.expect("a response in time");
    assert_eq!(TestResponse::read(response.expect("a response")).await.expect("complete").text(), "hello");
}

/// Each keeps up to 64 KiB of the gateway's memory.
#[tokio::test]
async fn a_client_may_have_only_a_share_of_unread_uploads() {
    const CALLS: usize = 300;
    let stub = service(|_| Vec::new()).await;
    let gateway = gateway(&stub);
    let taken = Arc::<AtomicUsize>::default();
    let mut calls = JoinSet::new();
    for _ in 0..2 {
        let client = http_2(gateway.address).await;
        for _ in 0..CALLS / 2 {
            let (mut client, body) = (client.clone(), chunks(usize::MAX, &taken));
            calls.spawn(async move { client.send_request(call(body)).await });
        }
    }
    for _ in 0..CALLS - 256 {
        let refused = tokio::time::timeout(TIMEOUT, calls.join_next()).await.expect("a response in time");
        let refused = refused.expect("a call").expect("no panic").expect("a response");
        assert_eq!(refused.headers()["grpc-status"], "14");
    }
    // On several threads, a few more may be refused.
    assert!((200..=256).contains(&gateway.metric(UPSTREAM_IN_FLIGHT)));
    // Another client has a share of its own.
    let stream = from_elsewhere(&gateway).await.expect("a connection");
    let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut other, connection) = handshake.await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    let response = tokio::time::timeout(MOMENT * 3, other.send_request(call(open_body()))).await;
    assert!(response.is_err(), "it is not refused: {response:?}");
}
