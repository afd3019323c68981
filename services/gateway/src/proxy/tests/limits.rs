//! Timeouts, quotas and load shedding.

use std::time::Instant;

use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
    sync::Notify,
    task::JoinSet,
};

use super::{
    hostile::UPSTREAM_IN_FLIGHT,
    stub::{full_body, read_head},
    *,
};

pub const QUICK: [&str; 2] = ["--header-timeout=300ms", "--total-timeout=600ms"];

/// Reads requests and never responds.
async fn silent() -> Stub {
    Stub::raw(async |mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

const PIECE: &str = "data\n";

/// Starts a response that never ends.
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
fn the_gateway_waits_longer_than_services_take() {
    let Flags { proxy, .. } = Flags::parse_from(["gateway"]);
    assert!(proxy.header_timeout > Duration::from_secs(15));
    assert!(proxy.total_timeout >= proxy.header_timeout * 2, "no time for a retry");
}

#[tokio::test]
async fn an_endpoint_that_does_not_respond_in_time_is_a_504() {
    let stub = silent().await;
    let gateway = TestGateway::with(&QUICK, &[&stub]);
    let started = Instant::now();
    assert_eq!(gateway.post("/test", "x").await.problem(), (504, "outcome-unknown".to_owned()));
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(gateway.get("/test").await.problem(), (504, "about:blank".to_owned()));
    assert!(gateway.metric(r#"gateway_upstream_errors_total{kind="timeout",service="test"}"#) >= 2);
}

#[tokio::test]
async fn repeatable_requests_are_retried_after_a_timeout() {
    let (stub, good) = (silent().await, Stub::text("good").await);
    let gateway = TestGateway::with(&QUICK, &[&stub, &good]);
    // On a busy machine the good endpoint may be late, too.
    eventually("the good endpoint responds instead of the silent one", TIMEOUT, async || {
        let before = stub.connections();
        let response = gateway.get("/test").await;
        (response.text() == "good" && stub.connections() > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_connect_timeout_is_independent_of_the_header_timeout() {
    // A documentation address, where nothing listens (RFC 5737).
    let gateway = TestGateway::of(
        &["--connect-timeout=100ms"],
        vec![service("test", &["/test"], &["192.0.2.1:80".parse().expect("an address")])],
    );
    let started = Instant::now();
    assert_eq!(gateway.post("/test", "x").await.problem(), (503, "about:blank".to_owned()));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// A listener whose queue is full, so that further connections wait. Also returns the connections in the queue.
pub(super) async fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut queue = Vec::new();
    while let Ok(stream) = tokio::time::timeout(MOMENT * 3, TcpStream::connect(address)).await {
        queue.push(stream.expect("a connection"));
    }
    (listener, queue)
}

/// Nothing is known about an endpoint if the request has less time than a connection may take.
#[tokio::test]
async fn a_request_without_time_to_connect_ejects_no_endpoint() {
    let (listener, _queue) = full_listener().await;
    let good = Stub::text("good").await;
    let services = both(listener.local_addr().expect("an address"), good.address);
    let gateway = TestGateway::of(&["--connect-timeout=10s", "--total-timeout=1s"], services);
    let post = async || (gateway.post("/test", "x").await.status == 503).then_some(());
    eventually("the request is for the full endpoint", TIMEOUT, post).await;
    assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="timeout",service="test"}"#), 1);
    assert_eq!(gateway.metric(r#"gateway_upstream_ejections_total{service="test"}"#), 0);
}

#[tokio::test]
async fn endless_responses_are_cut_off_except_for_events() {
    for (media_type, is_cut) in
        [("text/plain", true), ("text/event-stream; charset=utf-8", false), ("Text/Event-Stream", false)]
    {
        let stub = endless(media_type).await;
        let gateway = TestGateway::with(&QUICK, &[&stub]);
        let mut tries = 0;
        let (started, mut response) = eventually("the response starts in time", TIMEOUT, async || {
            tries += 1;
            let (started, mut client) = (Instant::now(), http_1(gateway.address).await);
            let response = client.send_request(request(Method::GET, "/test", "")).await.expect("a response");
            (response.status() == 200).then_some((started, response))
        })
        .await;
        let read = async {
            let mut length = 0;
            loop {
                match response.frame().await {
                    Some(Ok(frame)) => length += frame.data_ref().map_or(0, Bytes::len),
                    Some(Err(_)) => return true,
                    None => panic!("the response is endless"),
                }
                // By now more than twice the timeout has passed.
                if !is_cut && length > 30 * PIECE.len() {
                    return false;
                }
            }
        };
        let cut = tokio::time::timeout(TIMEOUT, read).await.expect("an end or enough data");
        assert_eq!(cut, is_cut, "{media_type}");
        assert!(started.elapsed() >= Duration::from_millis(500));
        if is_cut {
            let lines = gateway.log(tries).await;
            let is_it = |line: &Value| (&line["status"], &line["complete"]) == (&200.into(), &false.into());
            assert!(lines.iter().any(is_it), "{lines:?}");
        }
    }
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_immediately() {
    let release = Arc::new(Notify::new());
    let stub = Stub::responding({
        let release = release.clone();
        move |_| {
            let release = release.clone();
            async move {
                release.notified().await;
                Response::new(full_body("waited"))
            }
        }
    })
    .await;
    let gateway = Arc::new(TestGateway::with(&["--max-in-flight=5", "--max-in-flight-per-client=100"], &[&stub]));
    let mut waiting = JoinSet::new();
    for _ in 0..5 {
        let gateway = gateway.clone();
        waiting.spawn(async move { gateway.get("/test").await.text().to_owned() });
    }
    eventually("all requests are in flight", TIMEOUT, async || (stub.requests() == 5).then_some(())).await;
    let response = gateway.get("/test").await;
    assert_eq!((response.problem(), response.header("retry-after")), ((503, "about:blank".to_owned()), Some("1")));
    assert_eq!(gateway.metric("gateway_requests_shed_total"), 1);
    release.notify_one();
    assert_eq!(waiting.join_next().await.expect("one").expect("no panic"), "waited");
    waiting.spawn({
        let gateway = gateway.clone();
        async move { gateway.get("/test").await.text().to_owned() }
    });
    eventually("one more request is let through", TIMEOUT, async || (stub.requests() == 6).then_some(())).await;
    eventually("all requests are completed", TIMEOUT, async || {
        release.notify_one();
        while let Some(text) = waiting.try_join_next() {
            assert_eq!(text.expect("no panic"), "waited");
        }
        waiting.is_empty().then_some(())
    })
    .await;
    gateway.metric_becomes("http_requests_in_flight", 0).await;
}

#[tokio::test]
async fn each_route_has_its_own_quota_as_do_the_documents() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&["--rate-limit=2/h", "--cors-origins=*"], &[&stub]);
    for paths in [["/test", "/test/1", "/test/2"], ["/docs/", "/docs/index.css", "/docs/none"], ["/openapi.json"; 3]] {
        let started = Instant::now();
        for (path, (left, time)) in paths.iter().zip([(1, 1800), (0, 3600)]) {
            let response = gateway.get(path).await;
            let limit = response.header("ratelimit").expect("a quota");
            // The time counts down from the first request on.
            let mut times = time - started.elapsed().as_secs()..=time;
            assert!(times.any(|time| limit == format!("\"client\";r={left};t={time}")), "{path}: {limit}");
            assert_ne!(response.status, 429, "{path}");
        }
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let response = gateway.send(request(method.clone(), paths[2], "")).await;
            assert_eq!(response.problem(), (429, "rate-limited".to_owned()), "{method} {}", paths[2]);
            assert!(response.headers.contains_key("retry-after"));
        }
        // Preflights count like any other request.
        let mut preflight = request(Method::OPTIONS, paths[2], "");
        for (name, value) in [("origin", "https://shop.example"), ("access-control-request-method", "GET")] {
            preflight.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        assert_eq!(gateway.send(preflight).await.problem(), (429, "rate-limited".to_owned()), "{}", paths[2]);
    }
    assert_eq!(stub.requests(), 2 + 1, "including one for its API document");
}

/// Each waits for those before, and for the services.
#[tokio::test]
async fn requests_for_the_api_document_wait_for_a_limited_time() {
    let stub = silent().await;
    let gateway = TestGateway::with(&["--total-timeout=300ms"], &[&stub]);
    for response in futures_util::future::join_all((0..3).map(|_| gateway.get("/openapi.json"))).await {
        assert_eq!((response.problem(), response.header("retry-after")), ((503, "about:blank".to_owned()), Some("1")));
    }
    let merged = async || (gateway.get("/openapi.json").await.status == 200).then_some(());
    eventually("the document is merged nevertheless", TIMEOUT, merged).await;
}

#[tokio::test]
async fn a_response_that_is_read_too_slowly_is_cut_off() {
    let stub = Stub::raw(async |mut stream, _| {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n").await;
        // There is always something to read.
        let piece = vec![b'x'; 64 * 1024];
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await;
    let gateway = TestGateway::with(&["--total-timeout=1s"], &[&stub]);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("a small buffer");
    let mut client = socket.connect(gateway.address).await.expect("a connection");
    client.write_all(b"GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 256 * 1024];
        while client.read(&mut buffer).await.is_ok_and(|length| length > 0) {
            tokio::time::sleep(MOMENT / 5).await;
        }
    });
    let line = &gateway.log(1).await[0];
    assert_eq!((&line["status"], &line["complete"]), (&200.into(), &false.into()));
    assert!(line["duration"].as_f64().is_some_and(|duration| duration >= 1.0), "{line}");
    // The endpoint is not to blame.
    assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="timeout",service="test"}"#), 0);
    reader.abort();
}

#[tokio::test]
async fn requests_that_end_at_the_gateway_count_for_the_rate_limit() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&["--rate-limit=2/h"], &[&stub]);
    let mut options = request(Method::OPTIONS, "/test", "");
    options.headers_mut().insert("max-forwards", http::HeaderValue::from_static("0"));
    for (expected, request) in [
        (204, options.clone()),
        (405, request(Method::TRACE, "/test", "")),
        (429, request(Method::TRACE, "/none", "")),
        (429, options),
    ] {
        assert_eq!(gateway.send(request).await.status, expected);
    }
    assert_eq!(gateway.get("/test").await.status, 200, "another quota");
}

/// Little has arrived of them, although their length is not known. None of them is read before there is a connection.
#[tokio::test]
async fn a_burst_of_requests_of_unknown_length_is_not_refused() {
    const REQUESTS: usize = 400;
    let (listener, _queue) = full_listener().await;
    let address = listener.local_addr().expect("an address");
    let gateway = TestGateway::of(&["--connect-timeout=20s"], vec![service("test", &["/test"], &[address])]);
    let mut requests = JoinSet::new();
    for _ in 0..2 {
        let client = http_2(gateway.address).await;
        for _ in 0..REQUESTS / 2 {
            let chunk = stream::once(async { Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"0123456789"))) });
            let post = Request::post("http://shop.example/test").body(StreamBody::new(Box::pin(chunk)));
            let mut client = client.clone();
            requests.spawn(async move { client.send_request(post.expect("a request")).await });
        }
    }
    gateway.metric_becomes(UPSTREAM_IN_FLIGHT, REQUESTS).await;
    assert_eq!(gateway.metric("http_requests_in_flight"), REQUESTS);
}
