//! Bodies of any length, both ways, without the gateway holding more of them than a little.

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
    stub::{read_head, whole},
    *,
};

/// More than the kernel's buffers and the gateway's hold of one stream: those of the kernel grow to 32 MiB each.
const HELD: usize = 100 * 1024 * 1024;

/// A body whose pieces a test sends.
fn channel() -> (mpsc::Sender<Bytes>, stub::Body) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let frames = stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data)))));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

#[tokio::test]
async fn each_piece_of_a_body_is_passed_on_when_it_comes_both_ways_at_once() {
    // An echo.
    let stub =
        Stub::answering(async |request| Response::new(request.into_body().map_err(std::io::Error::other).boxed()))
            .await;
    let site = Site::with(&[], &[&stub]);
    let (sender, body) = channel();
    let mut client = http_2(site.address).await;
    let request = Request::post("http://a/test").body(body).expect("a request");
    let mut answer = client.send_request(request).await.expect("an answer before the body's end");
    for number in 0..20 {
        let piece = Bytes::from(format!("piece {number}"));
        sender.send(piece.clone()).await.expect("sent");
        let frame = tokio::time::timeout(PATIENCE, answer.frame()).await.expect("it comes at once");
        assert_eq!(frame.expect("a frame").expect("a frame").into_data().expect("data"), piece);
    }
    drop(sender);
    assert!(answer.collect().await.expect("an end").to_bytes().is_empty());
}

#[tokio::test]
async fn a_reader_that_is_slow_slows_down_its_service() {
    let written = Arc::<AtomicUsize>::default();
    let stub = Stub::raw({
        let written = written.clone();
        move |mut stream, _| {
            let written = written.clone();
            async move {
                read_head(&mut stream).await;
                let length = 20 * HELD;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.expect("written");
                let piece = vec![b'x'; 64 * 1024];
                for _ in 0..length / piece.len() {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                    written.fetch_add(piece.len(), Ordering::SeqCst);
                }
            }
        }
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let mut reader = TcpStream::connect(site.address).await.expect("a connection");
    reader.write_all(b"GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let held = stands_still(&written).await;
    assert!(held < HELD, "{held} bytes are held");
    // And what it reads lets the rest go on.
    let mut taken = 0;
    let mut buffer = vec![0; 1024 * 1024];
    while taken < 2 * HELD {
        taken += reader.read(&mut buffer).await.expect("more");
    }
    assert!(written.load(Ordering::SeqCst) > held);
    let held = stands_still(&written).await.abs_diff(taken);
    assert!(held < HELD, "{held} bytes are held");
}

/// Waits until a count grows no more.
async fn stands_still(count: &AtomicUsize) -> usize {
    loop {
        let before = count.load(Ordering::SeqCst);
        tokio::time::sleep(MOMENT * 2).await;
        if before > 0 && count.load(Ordering::SeqCst) == before {
            return before;
        }
    }
}

#[tokio::test]
async fn a_service_that_is_slow_slows_down_its_client() {
    let go = Arc::new(Notify::new());
    let stub = Stub::raw({
        let go = go.clone();
        move |mut stream, _| {
            let go = go.clone();
            async move {
                read_head(&mut stream).await;
                go.notified().await;
                while stream.read(&mut vec![0; 1024 * 1024]).await.is_ok_and(|length| length > 0) {}
            }
        }
    })
    .await;
    let site = Site::with(&["--body-limit=1000000000"], &[&stub]);
    let mut client = TcpStream::connect(site.address).await.expect("a connection");
    client.write_all(b"POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 900000000\r\n\r\n").await.expect("sent");
    let sent = Arc::<AtomicUsize>::default();
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            let piece = vec![b'x'; 64 * 1024];
            while client.write_all(&piece).await.is_ok() {
                sent.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }
    });
    let held = stands_still(&sent).await;
    assert!(held < HELD, "{held} bytes are held");
    go.notify_one();
    eventually("it goes on", PATIENCE, async || (sent.load(Ordering::SeqCst) > 4 * HELD).then_some(())).await;
    sending.abort();
}

#[tokio::test]
async fn an_answer_without_a_length_comes_whole_to_old_clients_too() {
    let stub = Stub::answering(async |_| {
        let (sender, body) = channel();
        tokio::spawn(async move {
            for piece in ["a", "bc", "def"] {
                let _ = sender.send(piece.into()).await;
            }
        });
        Response::new(body)
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    assert_eq!(site.get("/test").await.text(), "abcdef");
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("GET /test HTTP/1.0\r\n\r\n").await.expect("sent");
    raw.closed().await.expect("its end is that of the connection");
    let text = String::from_utf8_lossy(raw.rest()).into_owned();
    assert!(text.ends_with("\r\n\r\nabcdef") && !text.contains("chunked"), "{text}");
}

/// Else the client would take a part for the whole.
#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    for framing in ["content-length: 10", "transfer-encoding: chunked"] {
        let stub = Stub::raw(move |mut stream, _| async move {
            read_head(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello");
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await;
        let site = Site::with(&[], &[&stub]);
        for _ in 0..2 {
            let answer = http_1(site.address).await.send_request(request(Method::GET, "/test", "")).await;
            // It may be known before the head was sent.
            if let Ok(answer) = answer {
                assert!(Answer::read(answer).await.is_err(), "{framing}");
            }
        }
        assert!(site.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#) >= 2);
        assert!(site.log(2).await.iter().all(|line| line["complete"] == false));
    }
}

#[tokio::test]
async fn a_head_request_is_answered_with_the_length_and_no_body() {
    let stub = Stub::raw(async |mut stream, _| {
        while read_head(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n").await;
        }
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    for _ in 0..8 {
        raw.send("HEAD /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let _ = tokio::time::timeout(MOMENT / 10, raw.closed()).await;
            head = raw.rest().to_vec();
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        assert!(text.contains("content-length: 12345") && text.starts_with("HTTP/1.1 200"), "{text}");
        raw = Raw::connect(site.address).await.expect("a connection");
    }
    assert!(stub.connections() <= 2, "one a thread: {}", stub.connections());
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let stub = Stub::answering(async |request| {
        assert!(!request.headers().contains_key("expect"));
        Response::new(whole(request.into_body().collect().await.expect("a body").to_bytes()))
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
        .await
        .expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").status, 100);
    raw.send("hello").await.expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").body, "hello");
}

#[tokio::test]
async fn what_a_service_says_before_its_answer_is_not_the_answer() {
    let stub = Stub::raw(async |mut stream, _| {
        read_head(&mut stream).await;
        let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        let _ = stream.write_all(early.as_bytes()).await;
        stub::write_answer(&mut stream, "hello").await;
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    assert_eq!(site.post("/test", "x").await.text(), "hello");
}

/// An endpoint that says something else than HTTP.
#[tokio::test]
async fn an_answer_that_is_none_is_a_502() {
    for answer in [
        "hello\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let stub = Stub::raw(move |mut stream, _| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let site = Site::with(&[], &[&stub]);
        assert_eq!(site.get("/test").await.problem().0, 502, "{answer}");
        assert!(site.metric(r#"gateway_upstream_errors_total{kind="protocol",service="test"}"#) >= 1, "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request() {
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
    let site = Site::with(&[], &[&stub]);
    let answer = http_1(site.address).await.send_request(request(Method::GET, "/test", "")).await.expect("a head");
    let body: Pin<Box<Incoming>> = Box::pin(answer.into_body());
    drop(body);
    tokio::time::timeout(PATIENCE, ended.notified()).await.expect("the service is told");
    site.metric_becomes("http_requests_in_flight", 0).await;
    site.metric_becomes(r#"gateway_upstream_requests_in_flight{service="test"}"#, 0).await;
}

/// Of one that has nothing to say for a while nothing else is heard either.
#[tokio::test]
async fn a_client_of_silent_events_that_goes_away_is_noticed() {
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
    let site = Site::with(&[], &[&stub]);
    let answer = http_1(site.address).await.send_request(request(Method::GET, "/test", "")).await.expect("a head");
    drop(answer);
    tokio::time::timeout(PATIENCE, ended.notified()).await.expect("the service is told");
    site.metric_becomes("http_requests_in_flight", 0).await;
}

/// It is there all the while: its kernel answers probes.
#[tokio::test]
async fn a_service_may_read_nothing_for_a_while() {
    const LENGTH: usize = 900_000;
    let stub = Stub::raw(async |mut stream, _| {
        let Some(seen) = read_head(&mut stream).await else { return };
        let mut read = seen.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        // For longer than a machine that is gone may be silent.
        tokio::time::sleep(Duration::from_millis(6500)).await;
        let mut buffer = vec![0; 64 * 1024];
        while read < LENGTH {
            match stream.read(&mut buffer).await {
                Ok(length @ 1..) => read += length,
                _ => return,
            }
        }
        stub::write_answer(&mut stream, "all of it").await;
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    assert_eq!(site.post("/test", &"x".repeat(LENGTH)).await.text(), "all of it");
}
