//! Streaming of bodies of any length in both directions, with little buffering.

use std::pin::Pin;

use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use test_support::raw::Raw;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
};

use super::{
    stub::{full_body, read_head},
    *,
};

/// A body whose frames a test sends.
fn channel() -> (mpsc::Sender<Bytes>, stub::Body) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let frames = stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data)))));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

#[tokio::test]
async fn bodies_are_streamed_in_both_directions_at_once() {
    let stub =
        Stub::responding(async |request| Response::new(request.into_body().map_err(std::io::Error::other).boxed()))
            .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let (sender, body) = channel();
    let mut client = http_2(gateway.address).await;
    let request = Request::post("http://a/test").body(body).expect("a request");
    let mut response = client.send_request(request).await.expect("a response before the end of the body");
    for number in 0..20 {
        let piece = Bytes::from(format!("piece {number}"));
        sender.send(piece.clone()).await.expect("sent");
        let frame = tokio::time::timeout(TIMEOUT, response.frame()).await.expect("an immediate echo");
        assert_eq!(frame.expect("a frame").expect("a frame").into_data().expect("data"), piece);
    }
    drop(sender);
    assert!(response.collect().await.expect("an end").to_bytes().is_empty());
}

#[tokio::test]
async fn http_1_0_clients_get_bodies_of_unknown_length() {
    let stub = Stub::responding(async |_| {
        let (sender, body) = channel();
        tokio::spawn(async move {
            for piece in ["a", "bc", "def"] {
                let _ = sender.send(piece.into()).await;
            }
        });
        Response::new(body)
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    assert_eq!(gateway.get("/test").await.text(), "abcdef");
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("GET /test HTTP/1.0\r\n\r\n").await.expect("sent");
    raw.closed().await.expect("the end of the body");
    let text = String::from_utf8_lossy(raw.rest()).into_owned();
    assert!(text.ends_with("\r\n\r\nabcdef") && !text.contains("chunked"), "{text}");
}

/// Otherwise the client would take a partial response for a complete one.
#[tokio::test]
async fn a_truncated_response_is_truncated_for_the_client() {
    for framing in ["content-length: 10", "transfer-encoding: chunked"] {
        let stub = Stub::raw(move |mut stream, _| async move {
            read_head(&mut stream).await;
            let response = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello");
            let _ = stream.write_all(response.as_bytes()).await;
        })
        .await;
        let gateway = TestGateway::with(&[], &[&stub]);
        for _ in 0..2 {
            let response = http_1(gateway.address).await.send_request(request(Method::GET, "/test", "")).await;
            // The gateway may notice before it has sent the head.
            if let Ok(response) = response {
                assert!(TestResponse::read(response).await.is_err(), "{framing}");
            }
        }
        assert!(gateway.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#) >= 2);
        assert!(gateway.log(2).await.iter().all(|line| line["complete"] == false));
    }
}

#[tokio::test]
async fn a_response_to_head_has_a_length_and_no_body() {
    let stub = Stub::raw(async |mut stream, _| {
        while read_head(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n").await;
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    for _ in 0..8 {
        raw.send("HEAD /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let _ = tokio::time::timeout(MOMENT / 10, raw.closed()).await;
            head = raw.rest().to_vec();
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        assert!(text.contains("content-length: 12345") && text.starts_with("HTTP/1.1 200"), "{text}");
        raw = Raw::connect(gateway.address).await.expect("a connection");
    }
    // Whoever announces content may send it.
    assert_eq!(stub.connections(), 8);
}

#[tokio::test]
async fn expect_100_continue_is_answered_by_the_gateway() {
    let stub = Stub::responding(async |request| {
        assert!(!request.headers().contains_key("expect"));
        Response::new(full_body(request.into_body().collect().await.expect("a body").to_bytes()))
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .await
        .expect("sent");
    assert_eq!(raw.response().await.expect("a response").status, 100);
    raw.send("hello").await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").body, "hello");
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    let stub = Stub::raw(async |mut stream, _| {
        read_head(&mut stream).await;
        let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        let _ = stream.write_all(early.as_bytes()).await;
        stub::write_response(&mut stream, "hello").await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    assert_eq!(gateway.post("/test", "x").await.text(), "hello");
}

#[tokio::test]
async fn an_invalid_response_is_a_502() {
    for response in [
        "hello\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let stub = Stub::raw(move |mut stream, _| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let gateway = TestGateway::with(&[], &[&stub]);
        assert_eq!(gateway.get("/test").await.problem().0, 502, "{response}");
        assert!(gateway.metric(r#"gateway_upstream_errors_total{kind="protocol",service="test"}"#) >= 1, "{response}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request() {
    let ended = Arc::new(Notify::new());
    let stub = Stub::raw({
        let ended = ended.clone();
        move |mut stream, _| {
            let ended = ended.clone();
            async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                while stream.write_all(b"5\r\nhello\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                ended.notify_one();
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let response = http_1(gateway.address).await.send_request(request(Method::GET, "/test", "")).await.expect("a head");
    let body: Pin<Box<Incoming>> = Box::pin(response.into_body());
    drop(body);
    tokio::time::timeout(TIMEOUT, ended.notified()).await.expect("the service notices");
    gateway.metric_becomes("http_requests_in_flight", 0).await;
    gateway.metric_becomes(r#"gateway_upstream_requests_in_flight{service="test"}"#, 0).await;
}

/// The gateway has nothing to write that would fail.
#[tokio::test]
async fn a_client_of_a_silent_event_stream_that_goes_away_is_noticed() {
    let ended = Arc::new(Notify::new());
    let stub = Stub::raw({
        let ended = ended.clone();
        move |mut stream, _| {
            let ended = ended.clone();
            async move {
                read_head(&mut stream).await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                ended.notify_one();
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let response = http_1(gateway.address).await.send_request(request(Method::GET, "/test", "")).await.expect("a head");
    drop(response);
    tokio::time::timeout(TIMEOUT, ended.notified()).await.expect("the service notices");
    gateway.metric_becomes("http_requests_in_flight", 0).await;
}
