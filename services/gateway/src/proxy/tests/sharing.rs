//! Which connections gRPC calls share, and that they do not hold each other up.

use std::{convert::Infallible, future};

use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::{server::conn::http2, service::service_fn};
use tokio::sync::Notify;

use super::{
    grpc::with_grpc,
    hostile::{UPSTREAM_IN_FLIGHT, from_elsewhere, http_2_with_window, with_body},
    stub::{Body, full_body},
    *,
};

/// How many connections a test opens so that each thread of the gateway has some.
const CONNECTIONS: usize = 4;

/// The size of a chunk of a long body.
pub(super) const CHUNK: usize = 16 * 1024;

type Client = conn::http2::SendRequest<Body>;

/// A service that allows this many streams a connection. `Large` has a long response, `Hang` neither reads nor
/// responds, and `Ping` reads everything and responds. Chunks of long responses are counted in `taken`.
async fn service(streams: u32, taken: &Arc<AtomicUsize>) -> Stub {
    let taken = taken.clone();
    Stub::raw(move |stream, _| {
        let taken = taken.clone();
        async move {
            let service = service_fn(move |request| respond(request, taken.clone()));
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let _ = builder.max_concurrent_streams(streams).serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

async fn respond(request: Request<Incoming>, taken: Arc<AtomicUsize>) -> Result<Response<Body>, Infallible> {
    let body = match request.uri().path() {
        "/test.v1.Test/Large" => chunks(256, &taken),
        "/test.v1.Test/Hang" => future::pending().await,
        _ => request.into_body().collect().await.map_or_else(|_| full_body(""), |_| full_body("pong")),
    };
    Ok(Response::new(body))
}

/// Waits until no more chunks are taken.
pub(super) async fn stuck(taken: &AtomicUsize) {
    eventually("nothing more is sent", TIMEOUT, async || {
        let before = taken.load(Ordering::SeqCst);
        tokio::time::sleep(MOMENT).await;
        (before > 0 && taken.load(Ordering::SeqCst) == before).then_some(())
    })
    .await;
}

fn gateway(stub: &Stub) -> TestGateway {
    TestGateway::of(&[], with_grpc(&[], Some(vec![stub.address])))
}

/// A body of chunks, which counts those that are taken.
pub(super) fn chunks(count: usize, taken: &Arc<AtomicUsize>) -> Body {
    let taken = taken.clone();
    let chunk = Bytes::from_static(&[b'x'; CHUNK]);
    let next = move || {
        taken.fetch_add(1, Ordering::SeqCst);
        Ok(Frame::data(chunk.clone()))
    };
    BodyExt::boxed(StreamBody::new(stream::repeat_with(next).take(count)))
}

fn call(method: &str, body: Body) -> Request<Body> {
    with_body(Method::POST, &format!("/test.v1.Test/{method}"), "application/grpc", body)
}

async fn client(stream: TcpStream) -> Client {
    let (sender, connection) =
        conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender
}

/// Sends a call that nothing must hold up.
async fn ping(mut client: Client) {
    let response = async {
        let response = client.send_request(call("Ping", full_body("ping"))).await.expect("a response");
        TestResponse::read(response).await.expect("a complete response")
    };
    let response = tokio::time::timeout(TIMEOUT / 2, response).await.expect("a response in time");
    assert_eq!(response.text(), "pong");
}

async fn ping_each_thread(gateway: &TestGateway) {
    for _ in 0..CONNECTIONS {
        ping(http_2(gateway.address).await).await;
    }
}

#[tokio::test]
async fn unread_responses_do_not_hold_up_other_calls() {
    let taken = Arc::default();
    let stub = service(256, &taken).await;
    let gateway = gateway(&stub);
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut attacker = http_2_with_window(gateway.address, 0).await;
        for _ in 0..3 {
            held.push(attacker.send_request(call("Large", full_body("x"))).await.expect("a response"));
        }
    }
    stuck(&taken).await;
    ping_each_thread(&gateway).await;
}

#[tokio::test]
async fn calls_beyond_the_streams_of_a_connection_open_another() {
    let stub = service(4, &Arc::default()).await;
    let gateway = gateway(&stub);
    let attacker = http_2(gateway.address).await;
    for _ in 0..10 {
        let mut attacker = attacker.clone();
        tokio::spawn(async move { attacker.send_request(call("Hang", full_body("x"))).await });
    }
    gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 10).await;
    ping_each_thread(&gateway).await;
    // Three for the calls that hang, of which one may have room, and one or two for the others.
    assert!((3..=5).contains(&stub.connections()), "{}", stub.connections());
}

#[tokio::test]
async fn an_unread_upload_does_not_hold_up_other_clients() {
    let taken = Arc::default();
    let stub = service(256, &taken).await;
    let gateway = gateway(&stub);
    for _ in 0..CONNECTIONS {
        let mut attacker = client(from_elsewhere(&gateway).await.expect("a connection")).await;
        let body = chunks(usize::MAX, &taken);
        tokio::spawn(async move { attacker.send_request(call("Hang", body)).await });
    }
    gateway.metric_becomes(UPSTREAM_IN_FLIGHT, CONNECTIONS).await;
    stuck(&taken).await;
    ping_each_thread(&gateway).await;
}

#[tokio::test]
async fn clients_share_idle_connections() {
    let taken = Arc::default();
    let stub = service(256, &taken).await;
    let gateway = gateway(&stub);
    for _ in 0..CONNECTIONS {
        for stream in [
            TcpStream::connect(gateway.address).await.expect("a connection"),
            from_elsewhere(&gateway).await.expect("a connection"),
        ] {
            ping(client(stream).await).await;
            gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 0).await;
        }
    }
    assert!(stub.connections() <= 2, "at most one per thread: {}", stub.connections());
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let closed = Arc::new(Notify::new());
    let stub = Stub::raw({
        let closed = closed.clone();
        move |stream, _| {
            let closed = closed.clone();
            async move {
                let service = service_fn(|request| respond(request, Arc::default()));
                let builder = http2::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                closed.notify_one();
            }
        }
    })
    .await;
    let gateway = gateway(&stub);
    ping(http_2(gateway.address).await).await;
    tokio::time::timeout(TIMEOUT, closed.notified()).await.expect("a closed connection");
}
