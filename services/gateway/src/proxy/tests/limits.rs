//! Time limits and load shedding.

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::Notify,
    task::JoinSet,
};

use super::{
    stub::{read_head, whole},
    *,
};

pub const QUICK: [&str; 2] = ["--header-timeout=300ms", "--total-timeout=600ms"];

/// Takes requests and says nothing.
async fn silent() -> Stub {
    Stub::raw(async |mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

const PIECE: &str = "data\n";

/// Begins an answer, and goes on with it for ever, by a piece in half a moment.
async fn endless(media_type: &'static str) -> Stub {
    Stub::raw(move |mut stream, _| async move {
        read_head(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ntransfer-encoding: chunked\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let piece = format!("{:x}\r\n{PIECE}\r\n", PIECE.len());
        while stream.write_all(piece.as_bytes()).await.is_ok() {
            tokio::time::sleep(MOMENT / 2).await;
        }
    })
    .await
}

#[test]
fn the_gateway_waits_for_longer_than_services_take() {
    let Flags { proxy, .. } = Flags::parse_from(["gateway"]);
    assert!(proxy.header_timeout > Duration::from_secs(15));
    assert!(proxy.total_timeout >= proxy.header_timeout * 2, "there is time for a retry");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_is_a_504() {
    let stub = silent().await;
    let site = Site::with(&QUICK, &[&stub]);
    let begun = Instant::now();
    assert_eq!(site.post("/test", "x").await.problem(), (504, "outcome-unknown".to_owned()));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(site.get("/test").await.problem(), (504, "about:blank".to_owned()));
    assert!(site.metric(r#"gateway_upstream_errors_total{kind="timeout",service="test"}"#) >= 2);
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_to_another_when_no_answer_comes_in_time() {
    let (stub, good) = (silent().await, Stub::saying("good").await);
    let site = Site::with(&QUICK, &[&stub, &good]);
    // Where the machine pauses, the good one too may be late.
    eventually("the good one answers what the silent one was asked", PATIENCE, async || {
        let before = stub.connections();
        let answer = site.get("/test").await;
        (answer.text() == "good" && stub.connections() > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_not_made_in_time_is_no_wait_for_an_answer() {
    // Nobody answers there (RFC 5737).
    let site = Site::of(
        &["--connect-timeout=100ms"],
        vec![service("test", &["/test"], &["192.0.2.1:80".parse().expect("it")])],
    );
    let begun = Instant::now();
    assert_eq!(site.post("/test", "x").await.problem(), (503, "about:blank".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_cut_off_and_one_of_events_is_not() {
    for (media_type, is_cut) in [("text/plain", true), ("text/event-stream; charset=utf-8", false)] {
        let stub = endless(media_type).await;
        let site = Site::with(&QUICK, &[&stub]);
        let mut tries = 0;
        let (begun, mut answer) = eventually("it begins in time", PATIENCE, async || {
            tries += 1;
            let (begun, mut client) = (Instant::now(), http_1(site.address).await);
            let answer = client.send_request(request(Method::GET, "/test", "")).await.expect("an answer");
            (answer.status() == 200).then_some((begun, answer))
        })
        .await;
        let read = async {
            let mut length = 0;
            loop {
                match answer.frame().await {
                    Some(Ok(frame)) => length += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) => return true,
                    None => panic!("it has no end"),
                }
                // They take more than twice the time that another answer has.
                if !is_cut && length > 30 * PIECE.len() {
                    return false;
                }
            }
        };
        let cut = tokio::time::timeout(PATIENCE, read).await.expect("it is cut off");
        assert_eq!(cut, is_cut, "{media_type}");
        assert!(begun.elapsed() >= Duration::from_millis(500));
        if is_cut {
            let lines = site.log(tries).await;
            let is_it = |line: &Value| (&line["status"], &line["complete"]) == (&200.into(), &false.into());
            assert!(lines.iter().any(is_it), "{lines:?}");
        }
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_at_once() {
    let go = Arc::new(Notify::new());
    let stub = Stub::answering({
        let go = go.clone();
        move |_| {
            let go = go.clone();
            async move {
                go.notified().await;
                Response::new(whole("waited"))
            }
        }
    })
    .await;
    let site = Arc::new(Site::with(&["--max-in-flight=5"], &[&stub]));
    let mut waiting = JoinSet::new();
    for _ in 0..5 {
        let site = site.clone();
        waiting.spawn(async move { site.get("/test").await.text().to_owned() });
    }
    eventually("they are in flight", PATIENCE, async || (stub.requests() == 5).then_some(())).await;
    let answer = site.get("/test").await;
    assert_eq!((answer.problem(), answer.header("retry-after")), ((503, "about:blank".to_owned()), Some("1")));
    assert_eq!(site.metric("gateway_requests_shed_total"), 1);
    go.notify_one();
    assert_eq!(waiting.join_next().await.expect("one").expect("no panic"), "waited");
    waiting.spawn({
        let site = site.clone();
        async move { site.get("/test").await.text().to_owned() }
    });
    eventually("there is room for one more", PATIENCE, async || (stub.requests() == 6).then_some(())).await;
    eventually("all are answered", PATIENCE, async || {
        go.notify_one();
        while let Some(text) = waiting.try_join_next() {
            assert_eq!(text.expect("no panic"), "waited");
        }
        waiting.is_empty().then_some(())
    })
    .await;
    site.metric_becomes("http_requests_in_flight", 0).await;
}

#[tokio::test]
async fn each_route_has_a_quota_of_requests_and_the_documents_have_theirs() {
    let stub = Stub::saying("hello").await;
    let site = Site::with(&["--rate-limit=2/h", "--cors-origins=*"], &[&stub]);
    for paths in [["/test", "/test/1", "/test/2"], ["/docs/", "/docs/index.css", "/docs/none"], ["/openapi.json"; 3]] {
        let begun = Instant::now();
        for (path, (left, time)) in paths.iter().zip([(1, 1800), (0, 3600)]) {
            let answer = site.get(path).await;
            let told = answer.header("ratelimit").expect("a quota");
            // Of the time, what has passed since the first request may be over.
            let mut times = time - begun.elapsed().as_secs()..=time;
            assert!(times.any(|time| told == format!("\"client\";r={left};t={time}")), "{path}: {told}");
            assert_ne!(answer.status, 429, "{path}");
        }
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let answer = site.send(request(method.clone(), paths[2], "")).await;
            assert_eq!(answer.problem(), (429, "rate-limited".to_owned()), "{method} {}", paths[2]);
            assert!(answer.headers.contains_key("retry-after"));
        }
        // No page asks for preflights, its browser does.
        let mut preflight = request(Method::OPTIONS, paths[2], "");
        for (name, value) in [("origin", "https://shop.example"), ("access-control-request-method", "GET")] {
            preflight.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        assert_eq!(site.send(preflight).await.status, 204, "{}", paths[2]);
    }
    assert_eq!(stub.requests(), 2 + 1, "once for its document");
}

#[tokio::test]
async fn an_answer_that_its_client_reads_too_slowly_is_cut_off() {
    let stub = Stub::raw(async |mut stream, _| {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n").await;
        // So there is always something to read.
        let piece = vec![b'x'; 64 * 1024];
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await;
    let site = Site::with(&["--total-timeout=1s"], &[&stub]);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("a small one");
    let mut client = socket.connect(site.address).await.expect("a connection");
    client.write_all(b"GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 256 * 1024];
        while client.read(&mut buffer).await.is_ok_and(|length| length > 0) {
            tokio::time::sleep(MOMENT / 5).await;
        }
    });
    let line = &site.log(1).await[0];
    assert_eq!((&line["status"], &line["complete"]), (&200.into(), &false.into()));
    assert!(line["duration"].as_f64().is_some_and(|duration| duration >= 1.0), "{line}");
    // The endpoint had it all.
    assert_eq!(site.metric(r#"gateway_upstream_errors_total{kind="timeout",service="test"}"#), 0);
    reader.abort();
}
