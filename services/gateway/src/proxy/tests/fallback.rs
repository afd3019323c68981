//! Responses of 503 that are kept while another endpoint is tried.

use test_support::raw::Raw;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{
    stub::{read_head, resetting},
    *,
};

/// Responds with 503 and the given rest of the response.
async fn busy(rest: &'static str) -> Stub {
    Stub::raw(move |mut stream, _| async move {
        if read_head(&mut stream).await.is_some() {
            let response = format!("HTTP/1.1 503 Service Unavailable\r\n{rest}");
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

/// Sends requests until `busy` was tried first, and its response is passed on after two attempts that got none: the
/// choice is random. Returns the access log.
async fn fallback_responses(busy: &Stub) -> Vec<Value> {
    let resets = Arc::default();
    let other = resetting(&resets).await;
    let mut lines = Vec::new();
    for _ in 0..100 {
        let gateway = TestGateway::of(&["--total-timeout=500ms"], both(busy.address, other.address));
        let before = resets.load(Ordering::SeqCst);
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send("GET /test HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("sent");
        raw.closed().await.expect("an end in time");
        let line = gateway.log(1).await.remove(0);
        let is_fallback = line["status"] == 503 && resets.load(Ordering::SeqCst) == before + 2;
        lines.push(line);
        if is_fallback {
            return lines;
        }
    }
    panic!("it was never tried first");
}

#[tokio::test]
async fn a_fallback_response_is_logged_with_its_endpoint() {
    let busy = busy("content-length: 4\r\n\r\nbusy").await;
    for line in fallback_responses(&busy).await.iter().filter(|line| line["status"] == 503) {
        assert_eq!((&line["upstream"], &line["bytes"]), (&busy.address.to_string().into(), &4.into()), "{line}");
    }
}

#[tokio::test]
async fn a_fallback_response_has_to_be_complete_in_time() {
    let busy = busy("transfer-encoding: chunked\r\n\r\n4\r\nbusy\r\n").await;
    let line = fallback_responses(&busy).await.pop().expect("a line");
    assert_eq!((&line["status"], &line["complete"]), (&503.into(), &false.into()), "{line}");
}

/// A response of 503 says that nothing was done, but another endpoint may have done it.
#[tokio::test]
async fn a_503_does_not_hide_an_attempt_without_response() {
    let resets = Arc::default();
    let (busy, other) = (busy("content-length: 4\r\n\r\nbusy").await, resetting(&resets).await);
    for count in 1..=5 {
        let gateway = TestGateway::of(&[], both(busy.address, other.address));
        let response = gateway.send(request(Method::PUT, "/test", "x")).await;
        assert_eq!(response.problem(), (503, "outcome-unknown".to_owned()));
        assert!(resets.load(Ordering::SeqCst) >= count);
    }
}

/// Two replicas share one database: the first loses its connection during COMMIT, and the second gets none.
#[tokio::test]
async fn a_plain_503_does_not_hide_an_unknown_outcome() {
    let unsure = busy("x-outcome: unknown\r\ncontent-length: 6\r\n\r\nunsure").await;
    let plain = busy("content-length: 4\r\n\r\nbusy").await;
    for (method, expected) in [(Method::PUT, "outcome-unknown"), (Method::GET, "busy")] {
        eventually("the unsure endpoint is tried first", TIMEOUT, async || {
            let gateway = TestGateway::of(&[], both(unsure.address, plain.address));
            let response = gateway.send(request(method.clone(), "/test", "")).await;
            assert_eq!(response.status, 503);
            let was_first = gateway.log(1).await[0]["upstream"] == plain.address.to_string();
            // Otherwise it is the last one, and its own response is passed on.
            let expected = if was_first { expected } else { "unsure" };
            assert!(response.text().contains(expected), "{method}: {}", response.text());
            was_first.then_some(())
        })
        .await;
    }
}

/// Even though its endpoint did not get the whole request, because the rest went to another one.
#[tokio::test]
async fn a_fallback_response_is_used_if_no_endpoint_is_left() {
    let (got, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let silent = Stub::raw({
        let (got, release) = (got.clone(), release.clone());
        move |mut stream, _| {
            let (got, release) = (got.clone(), release.clone());
            async move {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"hello world") {
                    if stream.read_buf(&mut bytes).await.is_ok_and(|length| length == 0) {
                        return;
                    }
                }
                got.notify_one();
                release.notified().await;
            }
        }
    })
    .await;
    let busy = busy("content-length: 4\r\n\r\nbusy").await;
    let gateway = TestGateway::with(&[], &[&busy]);
    for (method, expected, otherwise) in [("GET", "busy", 503), ("PUT", "outcome-unknown", 502)] {
        let mut was_first = false;
        for _ in 0..100 {
            let (was_busy, was_silent) = (busy.connections(), silent.connections());
            gateway.apply(both(busy.address, silent.address)).await;
            let mut raw = Raw::connect(gateway.address).await.expect("a connection");
            let head = format!("{method} /test HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n");
            raw.send(head + "hello").await.expect("sent");
            let what = "the request reaches the silent endpoint";
            eventually(what, TIMEOUT, async || (silent.connections() > was_silent).then_some(())).await;
            raw.send(" world").await.expect("sent");
            got.notified().await;
            was_first = busy.connections() > was_busy;
            gateway.apply(vec![service("test", &["/test"], &[])]).await;
            release.notify_one();
            let response = raw.response().await.expect("a response");
            if was_first {
                assert!(response.status == 503 && response.body.contains(expected), "{method}: {}", response.body);
                break;
            }
            assert_eq!(response.status, otherwise, "{method}");
        }
        assert!(was_first, "it was never tried first");
    }
}
