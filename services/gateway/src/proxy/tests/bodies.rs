//! Request bodies that are too large, or are sent or read too slowly.

use std::time::Instant;

use test_support::raw::{self, Raw};
use tokio::sync::Notify;

use super::{limits::QUICK, stub::full_body, *};

/// Echoes request bodies.
async fn echo() -> Stub {
    Stub::responding(async |request| match request.into_body().collect().await {
        Ok(body) => Response::new(full_body(body.to_bytes())),
        Err(_) => Response::new(full_body("broken")),
    })
    .await
}

#[tokio::test]
async fn a_body_that_is_announced_as_too_large_is_refused() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&["--body-limit=1000"], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n")
        .await
        .expect("sent");
    let response = raw.response().await.expect("a response");
    assert!(response.status == 413 && response.closes(), "{}", response.head);
    assert_eq!(stub.connections(), 0);
    assert_eq!(gateway.post("/test", &"x".repeat(1001)).await.problem().0, 413);
    assert_eq!(gateway.post("/test", &"x".repeat(1000)).await.text(), "hello");
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_aborts_the_request() {
    let aborted = Arc::new(Notify::new());
    let stub = Stub::responding({
        let aborted = aborted.clone();
        move |request| {
            let aborted = aborted.clone();
            async move {
                if request.into_body().collect().await.is_err() {
                    aborted.notify_one();
                }
                Response::new(full_body("hello"))
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&["--body-limit=10000"], &[&stub]);
    for method in ["POST", "PUT"] {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send(raw::chunked(&format!("{method} /test"), &vec![b'x'; 20_000])).await.expect("sent");
        let response = raw.response().await.expect("a response");
        assert!(response.status == 413 && response.closes(), "{}", response.head);
        tokio::time::timeout(TIMEOUT, aborted.notified()).await.expect("the service notices");
    }
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(raw::chunked("POST /test", &vec![b'x'; 10_000])).await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").body, "hello");
    assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#), 0);
}

/// Otherwise slow clients could get every endpoint ejected.
#[tokio::test]
async fn a_slow_client_is_not_a_failure_of_the_endpoint() {
    let stubs = [echo().await, echo().await];
    let gateway = TestGateway::with(&["--header-timeout=300ms"], &stubs.each_ref());
    let mut slow = Vec::new();
    for number in 0..8 {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        // Repeatable requests too: another endpoint would also wait in vain.
        let line = ["POST /test", "PUT /test"][number % 2];
        let framing =
            ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"][number / 4];
        raw.send(format!("{line} HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\n{framing}")).await.expect("sent");
        slow.push(raw);
    }
    for raw in &mut slow {
        let response = raw.response().await.expect("a response");
        assert!(response.status == 408 && response.closes(), "{}", response.head);
    }
    assert!(gateway.log(8).await.iter().all(|line| line["status"] == 408 && line["retries"] == 0));
    assert_eq!(stubs.iter().map(Stub::requests).sum::<usize>(), 8);
    for kind in ["timeout", "reset"] {
        assert_eq!(gateway.metric(&format!(r#"gateway_upstream_errors_total{{kind="{kind}",service="test"}}"#)), 0);
    }
    assert_eq!(gateway.metric(r#"gateway_upstream_ejections_total{service="test"}"#), 0);
    let what = "a complete body gets a response within the short timeout";
    eventually(what, TIMEOUT, async || (gateway.post("/test", "hello").await.text() == "hello").then_some(())).await;
}

#[tokio::test]
async fn a_body_that_keeps_coming_extends_the_header_timeout() {
    let stub = echo().await;
    let gateway = TestGateway::with(&["--header-timeout=1s"], &[&stub]);
    // On a busy machine a piece or the response may be late. Then the connection is closed and sending fails.
    let (response, time) = eventually("every piece is in time", TIMEOUT, async || {
        let started = Instant::now();
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 15\r\n\r\n").await.expect("sent");
        for _ in 0..15 {
            tokio::time::sleep(MOMENT).await;
            raw.send("x").await.ok()?;
        }
        let response = raw.response().await.ok().filter(|response| ![408, 504].contains(&response.status))?;
        Some((response, started.elapsed()))
    })
    .await;
    assert_eq!((response.status, &*response.body), (200, "x".repeat(15).as_str()), "{}", response.head);
    assert!(time > Duration::from_secs(1));
    // The total timeout still applies.
    let started = Instant::now();
    let gateway = TestGateway::with(&QUICK, &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 15000\r\n\r\n").await.expect("sent");
    while tokio::time::timeout(MOMENT / 5, raw.closed()).await.is_err() && started.elapsed() < TIMEOUT {
        let _ = raw.send("x").await;
    }
    assert_eq!(raw.response().await.expect("a response").status, 408);
}

#[tokio::test]
async fn an_endpoint_that_does_not_read_the_body_in_time_is_a_504() {
    let stub = Stub::raw(async |stream, _| {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = TestGateway::with(&["--header-timeout=300ms", "--body-limit=100000000"], &[&stub]);
    let mut large = request(Method::POST, "/test", "");
    *large.body_mut() = Full::new(vec![b'x'; 50_000_000].into());
    // On a busy machine the client may be late before the buffers are full.
    let response = eventually("the buffers are full in time", TIMEOUT, async || {
        Some(gateway.send(large.clone()).await).filter(|response| response.status != 408)
    })
    .await;
    assert_eq!(response.problem(), (504, "outcome-unknown".to_owned()));
    assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="timeout",service="test"}"#), 1);
}

/// Each would be a write of its own. hyper, which counts them here, reads each by itself.
#[tokio::test]
async fn tiny_chunks_are_passed_on_together() {
    const COUNT: usize = 5_000;
    let stub = Stub::responding(async |request| {
        let (mut body, mut pieces, mut length) = (request.into_body(), 0, 0);
        while let Some(Ok(frame)) = body.frame().await {
            pieces += 1;
            length += frame.data_ref().map_or(0, Bytes::len);
        }
        Response::new(full_body(format!("{pieces} {length}")))
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for method in ["PUT", "POST"] {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        let head = format!("{method} /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
        raw.send(head + &"1\r\nx\r\n".repeat(COUNT) + "0\r\n\r\n").await.expect("sent");
        let response = raw.response().await.expect("a response");
        let (pieces, length) = response.body.split_once(' ').expect("two numbers");
        assert_eq!(length, COUNT.to_string());
        assert!(pieces.parse::<usize>().expect("a number") < COUNT / 20, "{pieces} pieces");
    }
}
