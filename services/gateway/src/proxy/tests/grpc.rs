//! gRPC: HTTP/2 on both sides, with trailers.

use std::task::Poll;

use futures_util::{StreamExt, stream};
use http::Version;
use http_body::Frame;
use http_body_util::StreamBody;
use test_support::port::Port;
use tokio::net::TcpSocket;

use super::{
    stub::{Body, full_body},
    *,
};

fn trailers(status: &'static str) -> Frame<Bytes> {
    Frame::trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(status),
    )]))
}

/// Echoes messages, and ends with a status in the trailers.
pub(super) async fn echo() -> Stub {
    Stub::responding(async |request| {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.uri().authority().map(ToString::to_string), Some("shop.example".to_owned()));
        let body = request.into_body();
        let frames = stream::unfold((body, false), async |(mut body, ended)| {
            if ended {
                return None;
            }
            let Some(Ok(frame)) = body.frame().await else { return Some((Ok(trailers("0")), (body, true))) };
            Some((Ok(frame), (body, false)))
        });
        let body: Body = BodyExt::boxed(StreamBody::new(Box::pin(SyncStream(Mutex::new(Box::pin(frames))))));
        Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
    })
    .await
}

type Frames = std::pin::Pin<Box<dyn futures_util::Stream<Item = io::Result<Frame<Bytes>>> + Send>>;

/// Makes a stream `Sync`, as boxed bodies must be.
struct SyncStream(Mutex<Frames>);

impl futures_util::Stream for SyncStream {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().expect("a lock").as_mut().poll_next(cx)
    }
}

pub(super) fn with_grpc(http: &[SocketAddr], grpc: Option<Vec<SocketAddr>>) -> Vec<Service> {
    vec![Service { grpc, ..service("test", &["/test.v1.Test", "/test"], http) }]
}

pub(super) fn call(body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("http://shop.example/test.v1.Test/Echo")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    request.body(Full::new(body.into())).expect("a request")
}

pub(super) async fn send_call(gateway: &TestGateway, request: Request<Full<Bytes>>) -> TestResponse {
    let response = http_2(gateway.address).await.send_request(request).await.expect("a response");
    TestResponse::read(response).await.expect("a complete response")
}

pub(super) fn status(response: &TestResponse) -> Option<&str> {
    let from = |headers: &HeaderMap| headers.get("grpc-status").map(|value| value.to_str().expect("text").to_owned());
    let status = response.trailers.as_ref().and_then(from).or_else(|| from(&response.headers))?;
    Some(match status.as_str() {
        "0" => "OK",
        "3" => "INVALID_ARGUMENT",
        "12" => "UNIMPLEMENTED",
        "14" => "UNAVAILABLE",
        "16" => "UNAUTHENTICATED",
        "5" => "NOT_FOUND",
        "7" => "PERMISSION_DENIED",
        "2" => "UNKNOWN",
        _ => "another",
    })
}

#[tokio::test]
async fn messages_and_trailers_are_passed_through() {
    let (grpc, http) = (echo().await, Stub::text("http").await);
    let gateway = TestGateway::of(&[], with_grpc(&[http.address], Some(vec![grpc.address])));
    for _ in 0..3 {
        let response = send_call(&gateway, call("\0\0\0\0\x05hello")).await;
        assert_eq!((response.text(), status(&response)), ("\0\0\0\0\x05hello", Some("OK")));
        assert_eq!(response.header("content-type"), Some("application/grpc"));
    }
    // Other requests to the same service go to its HTTP port.
    assert_eq!(gateway.get("/test").await.text(), "http");
    assert_eq!((grpc.requests(), http.requests()), (3, 1));
    assert!(grpc.connections() <= 2, "at most one per thread: {}", grpc.connections());
}

#[tokio::test]
async fn grpc_streams_have_no_time_or_body_limit() {
    let grpc = echo().await;
    let flags = ["--header-timeout=50ms", "--total-timeout=100ms", "--body-limit=10"];
    let gateway = TestGateway::of(&flags, with_grpc(&[], Some(vec![grpc.address])));
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|data| data.map(|data| io::Result::Ok(Frame::data(data))))
    });
    let (parts, _) = call("").into_parts();
    let mut client = http_2(gateway.address).await;
    let mut response =
        client.send_request(Request::from_parts(parts, StreamBody::new(frames))).await.expect("a response");
    for _ in 0..5 {
        tokio::time::sleep(MOMENT).await;
        sender.send("a message".into()).await.expect("sent");
        let frame = response.frame().await.expect("a frame").expect("an open stream");
        assert_eq!(frame.into_data().expect("data"), "a message");
    }
    drop(sender);
    let end = response.frame().await.expect("a frame").expect("an end").into_trailers().expect("trailers");
    assert_eq!(end["grpc-status"], "0");
}

#[tokio::test]
async fn the_gateways_own_errors_are_grpc_statuses() {
    let (stub, unused) = (Stub::text("http").await, Port::free());
    let gateway = TestGateway::of(&[], with_grpc(&[stub.address], Some(vec![unused.address])));
    let response = send_call(&gateway, call("x")).await;
    assert_eq!((response.status.as_u16(), status(&response)), (200, Some("UNAVAILABLE")));
    assert!(response.headers.contains_key("x-request-id"));
    gateway.apply(with_grpc(&[stub.address], Some(Vec::new()))).await;
    assert_eq!(status(&send_call(&gateway, call("x")).await), Some("UNAVAILABLE"));
    gateway.apply(with_grpc(&[stub.address], None)).await;
    assert_eq!(status(&send_call(&gateway, call("x")).await), Some("UNIMPLEMENTED"));
    gateway.apply(Vec::new()).await;
    assert_eq!(status(&send_call(&gateway, call("x")).await), Some("NOT_FOUND"));
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn only_unsent_calls_are_sent_to_another_endpoint() {
    let (unused, good) = (Port::free(), echo().await);
    let gateway = TestGateway::of(&[], with_grpc(&[], Some(vec![unused.address, good.address])));
    for _ in 0..10 {
        assert_eq!(status(&send_call(&gateway, call("x")).await), Some("OK"));
    }
    let broken = Stub::raw(async |mut stream, _| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // Empty settings.
        let _ = stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await;
        let mut bytes = Vec::new();
        // Closes the connection after the preface, the settings and a request.
        while bytes.len() < 100 && stream.read_buf(&mut bytes).await.is_ok_and(|length| length > 0) {}
    })
    .await;
    gateway.apply(with_grpc(&[], Some(vec![broken.address]))).await;
    assert_eq!(status(&send_call(&gateway, call("x")).await), Some("UNKNOWN"));
}

/// As when a service restarts on the same address.
#[tokio::test]
async fn a_closed_connection_is_replaced() {
    let first = echo().await;
    let gateway = TestGateway::of(&[], with_grpc(&[], Some(vec![first.address])));
    assert_eq!(status(&send_call(&gateway, call("x")).await), Some("OK"));
    let port = first.kill().await;
    let restarted = Stub::at(port, async |_| {
        Response::builder().header("grpc-status", "0").body(full_body("")).expect("a response")
    })
    .await;
    eventually("the gateway reconnects", TIMEOUT, async || {
        (status(&send_call(&gateway, call("x")).await) == Some("OK")).then_some(())
    })
    .await;
    assert!(restarted.requests() > 0);
}

/// It may have accepted connections and then stopped, so its calls go to other endpoints.
#[tokio::test]
async fn a_service_that_sends_no_settings_is_unavailable() {
    let silent = Stub::raw(async |mut stream, _| {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let gateway = TestGateway::of(&[], with_grpc(&[], Some(vec![silent.address])));
    assert_eq!(status(&send_call(&gateway, call("x")).await), Some("UNAVAILABLE"));
}

/// A listener with a full backlog, to which connecting times out.
async fn full_backlog() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut held = Vec::new();
    while let Ok(connected) = tokio::time::timeout(MOMENT * 3, TcpStream::connect(address)).await {
        held.push(connected.expect("a connection"));
    }
    (address, (listener, held))
}

#[tokio::test]
async fn calls_that_wait_for_a_connection_share_its_outcome() {
    let (address, _held) = full_backlog().await;
    let gateway = TestGateway::of(&["--connect-timeout=2s"], with_grpc(&[], Some(vec![address])));
    let client = http_2(gateway.address).await;
    let started = std::time::Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = client.clone();
        waiting.spawn(async move {
            TestResponse::read(client.send_request(call("x")).await.expect("a response"))
                .await
                .expect("a complete response")
        });
    }
    for response in waiting.join_all().await {
        assert_eq!(status(&response), Some("UNAVAILABLE"));
    }
    // One after the other they would take sixteen seconds.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_truncated_response_is_counted() {
    let release = Arc::new(tokio::sync::Notify::new());
    let stub = Stub::responding({
        let release = release.clone();
        move |_| {
            let release = release.clone();
            async move {
                let end = stream::once(async move {
                    release.notified().await;
                    Err(io::Error::other("broken"))
                });
                let frames = stream::once(async { Ok(Frame::data(Bytes::from("begun"))) }).chain(end);
                Response::builder()
                    .header("content-type", "application/grpc")
                    .body(BodyExt::boxed(StreamBody::new(Box::pin(frames))))
                    .expect("a response")
            }
        }
    })
    .await;
    let gateway = TestGateway::of(&[], with_grpc(&[], Some(vec![stub.address])));
    let mut response = http_2(gateway.address).await.send_request(call("x")).await.expect("a response");
    assert_eq!(response.frame().await.expect("a frame").expect("data").into_data().expect("data"), "begun");
    release.notify_one();
    assert!(response.frame().await.expect("an end").is_err());
    assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#), 1);
}

/// The service uses it as its own deadline.
#[tokio::test]
async fn the_callers_timeout_is_passed_on() {
    let stub = Stub::responding(async |request| {
        let timeout = request.headers().get("grpc-timeout").cloned();
        let mut response =
            Response::new(full_body(timeout.map_or("-".into(), |time| Bytes::copy_from_slice(time.as_bytes()))));
        response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("0"));
        response
    })
    .await;
    let gateway = TestGateway::of(&[], with_grpc(&[], Some(vec![stub.address])));
    let mut timed = call("x");
    timed.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("1500m"));
    assert_eq!(send_call(&gateway, timed).await.text(), "1500m");
    assert_eq!(send_call(&gateway, call("x")).await.text(), "-");
}
