//! Bodies of requests that are too long, or come or are read too slowly.

use std::time::Instant;

use test_support::raw::{self, Raw};
use tokio::sync::Notify;

use super::{limits::QUICK, stub::whole, *};

/// Reads bodies, and answers with them.
async fn reading() -> Stub {
    Stub::answering(async |request| match request.into_body().collect().await {
        Ok(body) => Response::new(whole(body.to_bytes())),
        Err(_) => Response::new(whole("broken")),
    })
    .await
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_by_its_length_at_once() {
    let stub = Stub::saying("hello").await;
    let site = Site::with(&["--body-limit=1000"], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\nexpect: 100-continue\r\n\r\n")
        .await
        .expect("sent");
    let answer = raw.answer().await.expect("an answer");
    assert!(answer.status == 413 && answer.closes(), "{}", answer.head);
    assert_eq!(stub.connections(), 0);
    assert_eq!(site.post("/test", &"x".repeat(1001)).await.problem().0, 413);
    assert_eq!(site.post("/test", &"x".repeat(1000)).await.text(), "hello");
}

#[tokio::test]
async fn a_body_that_turns_out_to_be_too_long_is_refused_and_its_request_given_up() {
    let aborted = Arc::new(Notify::new());
    let stub = Stub::answering({
        let aborted = aborted.clone();
        move |request| {
            let aborted = aborted.clone();
            async move {
                if request.into_body().collect().await.is_err() {
                    aborted.notify_one();
                }
                Response::new(whole("hello"))
            }
        }
    })
    .await;
    let site = Site::with(&["--body-limit=10000"], &[&stub]);
    for method in ["POST", "PUT"] {
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send(raw::chunked(&format!("{method} /test"), &vec![b'x'; 20_000])).await.expect("sent");
        let answer = raw.answer().await.expect("an answer");
        assert!(answer.status == 413 && answer.closes(), "{}", answer.head);
        tokio::time::timeout(PATIENCE, aborted.notified()).await.expect("the service is told");
    }
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send(raw::chunked("POST /test", &vec![b'x'; 10_000])).await.expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").body, "hello");
    assert_eq!(site.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#), 0);
}

/// Whose fault it is decides who is left out: clients that are slow could have every endpoint left out.
#[tokio::test]
async fn a_client_that_does_not_send_its_body_in_time_is_no_failure_of_its_endpoint() {
    let stubs = [reading().await, reading().await];
    let site = Site::with(&["--header-timeout=300ms"], &stubs.each_ref());
    let mut slow = Vec::new();
    for number in 0..8 {
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        // Also those that may be repeated: another endpoint would wait in vain, too.
        let line = ["POST /test", "PUT /test"][number % 2];
        let framing =
            ["content-length: 10\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"][number / 4];
        raw.send(format!("{line} HTTP/1.1\r\nhost: a\r\nidempotency-key: k\r\n{framing}")).await.expect("sent");
        slow.push(raw);
    }
    for raw in &mut slow {
        let answer = raw.answer().await.expect("an answer");
        assert!(answer.status == 408 && answer.closes(), "{}", answer.head);
    }
    assert!(site.log(8).await.iter().all(|line| line["status"] == 408 && line["retries"] == 0));
    assert_eq!(stubs.iter().map(Stub::requests).sum::<usize>(), 8);
    for kind in ["timeout", "reset"] {
        assert_eq!(site.metric(&format!(r#"gateway_upstream_errors_total{{kind="{kind}",service="test"}}"#)), 0);
    }
    assert_eq!(site.metric(r#"gateway_upstream_ejections_total{service="test"}"#), 0);
    let what = "one that sends its body is answered in its short time";
    eventually(what, PATIENCE, async || (site.post("/test", "hello").await.text() == "hello").then_some(())).await;
}

#[tokio::test]
async fn a_body_that_goes_on_coming_may_take_longer_than_an_answer() {
    let stub = reading().await;
    let site = Site::with(&["--header-timeout=1s"], &[&stub]);
    // Where the machine pauses, a piece or the answer may be late: the connection is closed, then, and not all is sent.
    let (answer, time) = eventually("no piece is late", PATIENCE, async || {
        let begun = Instant::now();
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 15\r\n\r\n").await.expect("sent");
        for _ in 0..15 {
            tokio::time::sleep(MOMENT).await;
            raw.send("x").await.ok()?;
        }
        let answer = raw.answer().await.ok().filter(|answer| ![408, 504].contains(&answer.status))?;
        Some((answer, begun.elapsed()))
    })
    .await;
    assert_eq!((answer.status, &*answer.body), (200, "x".repeat(15).as_str()), "{}", answer.head);
    assert!(time > Duration::from_secs(1));
    // But not for ever.
    let begun = Instant::now();
    let site = Site::with(&QUICK, &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 15000\r\n\r\n").await.expect("sent");
    while tokio::time::timeout(MOMENT / 5, raw.closed()).await.is_err() && begun.elapsed() < PATIENCE {
        let _ = raw.send("x").await;
    }
    assert_eq!(raw.answer().await.expect("an answer").status, 408);
}

/// Here it is the endpoint that is waited for.
#[tokio::test]
async fn an_endpoint_that_does_not_read_a_body_in_time_is_a_504() {
    let stub = Stub::raw(async |stream, _| {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let site = Site::with(&["--header-timeout=300ms", "--body-limit=100000000"], &[&stub]);
    let mut large = request(Method::POST, "/test", "");
    *large.body_mut() = Full::new(vec![b'x'; 50_000_000].into());
    // Where the machine pauses before the buffers are full, it is the client that is waited for.
    let answer = eventually("the buffers are full in time", PATIENCE, async || {
        Some(site.send(large.clone()).await).filter(|answer| answer.status != 408)
    })
    .await;
    assert_eq!(answer.problem(), (504, "outcome-unknown".to_owned()));
    assert_eq!(site.metric(r#"gateway_upstream_errors_total{kind="timeout",service="test"}"#), 1);
}
