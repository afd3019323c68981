//! gRPC: HTTP/2 on both sides, with trailers.

use std::task::Poll;

use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use test_support::port::Port;
use tokio::net::TcpSocket;

use super::{
    stub::{Body, whole},
    *,
};

fn trailers(status: &'static str) -> Frame<Bytes> {
    Frame::trailers(HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(status),
    )]))
}

/// Echoes messages; ends with a status in its trailers.
async fn echo() -> Stub {
    Stub::answering(async |request| {
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

/// A boxed body has to be `Sync`.
struct SyncStream(Mutex<Frames>);

impl futures_util::Stream for SyncStream {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().expect("a lock").as_mut().poll_next(cx)
    }
}

fn with_grpc(http: &[SocketAddr], grpc: Option<Vec<SocketAddr>>) -> Vec<Service> {
    vec![Service { grpc, ..service("test", &["/test.v1.Test", "/test"], http) }]
}

fn call(body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("http://shop.example/test.v1.Test/Echo")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    request.body(Full::new(body.into())).expect("a request")
}

async fn calls(site: &Site, request: Request<Full<Bytes>>) -> Answer {
    let answer = http_2(site.address).await.send_request(request).await.expect("an answer");
    Answer::read(answer).await.expect("all of it")
}

fn status(answer: &Answer) -> Option<&str> {
    let from = |headers: &HeaderMap| headers.get("grpc-status").map(|value| value.to_str().expect("text").to_owned());
    let status = answer.trailers.as_ref().and_then(from).or_else(|| from(&answer.headers))?;
    Some(match status.as_str() {
        "0" => "OK",
        "12" => "UNIMPLEMENTED",
        "14" => "UNAVAILABLE",
        "5" => "NOT_FOUND",
        "2" => "UNKNOWN",
        _ => "another",
    })
}

#[tokio::test]
async fn messages_and_trailers_are_passed_through() {
    let (grpc, http) = (echo().await, Stub::saying("http").await);
    let site = Site::of(&[], with_grpc(&[http.address], Some(vec![grpc.address])));
    for _ in 0..3 {
        let answer = calls(&site, call("\0\0\0\0\x05hello")).await;
        assert_eq!((answer.text(), status(&answer)), ("\0\0\0\0\x05hello", Some("OK")));
        assert_eq!(answer.header("content-type"), Some("application/grpc"));
    }
    // What is no gRPC of the same service goes to its other port.
    assert_eq!(site.get("/test").await.text(), "http");
    assert_eq!((grpc.requests(), http.requests()), (3, 1));
    assert!(grpc.connections() <= 2, "one a thread: {}", grpc.connections());
}

#[tokio::test]
async fn a_stream_goes_on_for_longer_than_a_request_may_take_both_ways_at_once() {
    let grpc = echo().await;
    let flags = ["--header-timeout=50ms", "--total-timeout=100ms", "--body-limit=10"];
    let site = Site::of(&flags, with_grpc(&[], Some(vec![grpc.address])));
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let frames = stream::poll_fn(move |cx| {
        receiver.poll_recv(cx).map(|data| data.map(|data| io::Result::Ok(Frame::data(data))))
    });
    let (parts, _) = call("").into_parts();
    let mut client = http_2(site.address).await;
    let mut answer = client.send_request(Request::from_parts(parts, StreamBody::new(frames))).await.expect("an answer");
    for _ in 0..5 {
        tokio::time::sleep(MOMENT).await;
        sender.send("a message".into()).await.expect("sent");
        let frame = answer.frame().await.expect("a frame").expect("it goes on");
        assert_eq!(frame.into_data().expect("data"), "a message");
    }
    drop(sender);
    let end = answer.frame().await.expect("a frame").expect("an end").into_trailers().expect("trailers");
    assert_eq!(end["grpc-status"], "0");
}

#[tokio::test]
async fn where_there_is_no_answer_the_call_has_a_status() {
    let (stub, nobody) = (Stub::saying("http").await, Port::free());
    let site = Site::of(&[], with_grpc(&[stub.address], Some(vec![nobody.address])));
    let answer = calls(&site, call("x")).await;
    assert_eq!((answer.status.as_u16(), status(&answer)), (200, Some("UNAVAILABLE")));
    assert!(answer.headers.contains_key("x-request-id"));
    site.told(with_grpc(&[stub.address], Some(Vec::new()))).await;
    assert_eq!(status(&calls(&site, call("x")).await), Some("UNAVAILABLE"));
    site.told(with_grpc(&[stub.address], None)).await;
    assert_eq!(status(&calls(&site, call("x")).await), Some("UNIMPLEMENTED"));
    site.told(Vec::new()).await;
    assert_eq!(status(&calls(&site, call("x")).await), Some("NOT_FOUND"));
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn a_call_that_was_not_sent_goes_to_another_endpoint_and_one_that_was_does_not() {
    let (nobody, good) = (Port::free(), echo().await);
    let site = Site::of(&[], with_grpc(&[], Some(vec![nobody.address, good.address])));
    for _ in 0..10 {
        assert_eq!(status(&calls(&site, call("x")).await), Some("OK"));
    }
    let broken = Stub::raw(async |mut stream, _| {
        use tokio::io::AsyncReadExt;
        let mut bytes = Vec::new();
        // The preface, settings and a request: then it is gone.
        while bytes.len() < 100 && stream.read_buf(&mut bytes).await.is_ok_and(|length| length > 0) {}
    })
    .await;
    site.told(with_grpc(&[], Some(vec![broken.address]))).await;
    assert_eq!(status(&calls(&site, call("x")).await), Some("UNKNOWN"));
}

/// A new process at the same address, as with a service that is started anew.
#[tokio::test]
async fn a_connection_that_has_ended_is_made_again() {
    let first = echo().await;
    let site = Site::of(&[], with_grpc(&[], Some(vec![first.address])));
    assert_eq!(status(&calls(&site, call("x")).await), Some("OK"));
    let port = first.kill().await;
    let again =
        Stub::at(port, async |_| Response::builder().header("grpc-status", "0").body(whole("")).expect("a response"))
            .await;
    eventually("it is connected", PATIENCE, async || {
        (status(&calls(&site, call("x")).await) == Some("OK")).then_some(())
    })
    .await;
    assert!(again.requests() > 0);
}

/// Its backlog is full, so it does not answer who connects.
async fn swallowing() -> (SocketAddr, impl Sized) {
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
async fn calls_that_wait_for_one_connection_share_its_outcome() {
    let (address, _held) = swallowing().await;
    let site = Site::of(&["--connect-timeout=2s"], with_grpc(&[], Some(vec![address])));
    let client = http_2(site.address).await;
    let begun = std::time::Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut client = client.clone();
        waiting.spawn(async move {
            Answer::read(client.send_request(call("x")).await.expect("an answer")).await.expect("all of it")
        });
    }
    for answer in waiting.join_all().await {
        assert_eq!(status(&answer), Some("UNAVAILABLE"));
    }
    // One after the other they take sixteen seconds.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_counted() {
    let go = Arc::new(tokio::sync::Notify::new());
    let stub = Stub::answering({
        let go = go.clone();
        move |_| {
            let go = go.clone();
            async move {
                let end = stream::once(async move {
                    go.notified().await;
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
    let site = Site::of(&[], with_grpc(&[], Some(vec![stub.address])));
    let mut answer = http_2(site.address).await.send_request(call("x")).await.expect("an answer");
    assert_eq!(answer.frame().await.expect("a frame").expect("data").into_data().expect("data"), "begun");
    go.notify_one();
    assert!(answer.frame().await.expect("an end").is_err());
    assert_eq!(site.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#), 1);
}

/// The service's own deadline is what the caller has left.
#[tokio::test]
async fn the_time_that_a_caller_gives_is_passed_on() {
    let stub = Stub::answering(async |request| {
        let timeout = request.headers().get("grpc-timeout").cloned();
        let mut response =
            Response::new(whole(timeout.map_or("-".into(), |time| Bytes::copy_from_slice(time.as_bytes()))));
        response.headers_mut().insert("grpc-status", http::HeaderValue::from_static("0"));
        response
    })
    .await;
    let site = Site::of(&[], with_grpc(&[], Some(vec![stub.address])));
    let mut timed = call("x");
    timed.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("1500m"));
    assert_eq!(calls(&site, timed).await.text(), "1500m");
    assert_eq!(calls(&site, call("x")).await.text(), "-");
}
