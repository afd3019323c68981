//! What a client is told if a request may have taken effect.

use test_support::{
    port::Port,
    raw::{self, Raw},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{
    stub::{read_head, resetting, write_response},
    *,
};

/// Even if nothing was sent to the last endpoint: the first one may have done it.
#[tokio::test]
async fn the_outcome_is_that_of_all_attempts() {
    let resets = Arc::default();
    let (bad, unused) = (resetting(&resets).await, Port::free());
    for request in [request(Method::PUT, "/test", "x"), request(Method::DELETE, "/test", ""), keyed("/test", "x")] {
        eventually("the last endpoint refuses the connection", TIMEOUT, async || {
            let gateway = TestGateway::of(&[], both(bad.address, unused.address));
            let before = resets.load(Ordering::SeqCst);
            assert_eq!(gateway.send(request.clone()).await.problem(), (502, "outcome-unknown".to_owned()));
            assert!(resets.load(Ordering::SeqCst) > before);
            (gateway.log(1).await[0]["upstream"] == unused.address.to_string()).then_some(())
        })
        .await;
    }
}

/// The request is resent because the connection was idle, and then nothing listens anymore.
#[tokio::test]
async fn the_outcome_includes_what_was_sent_on_an_idle_connection() {
    let got = Arc::new(Notify::new());
    let stub = Stub::raw({
        let got = got.clone();
        move |mut stream, _| {
            let got = got.clone();
            async move {
                read_head(&mut stream).await;
                write_response(&mut stream, "hello").await;
                read_head(&mut stream).await;
                got.notify_one();
                std::future::pending::<()>().await;
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(raw::get("/test")).await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").body, "hello");
    raw.send("PUT /test HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await.expect("sent");
    got.notified().await;
    assert_eq!(stub.connections(), 1, "an idle connection is reused");
    stub.kill().await;
    let response = raw.response().await.expect("a response");
    assert!(response.status == 502 && response.body.contains("outcome-unknown"), "{}", response.body);
}

#[tokio::test]
async fn the_outcome_is_unknown_if_no_endpoint_is_left_for_a_retry() {
    let (got, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let bad = Stub::raw({
        let (got, release) = (got.clone(), release.clone());
        move |mut stream, _| {
            let (got, release) = (got.clone(), release.clone());
            async move {
                read_head(&mut stream).await;
                got.notify_one();
                release.notified().await;
            }
        }
    })
    .await;
    let gateway = Arc::new(TestGateway::with(&[], &[&bad]));
    for (method, expected) in [(Method::PUT, (502, "outcome-unknown")), (Method::GET, (503, "about:blank"))] {
        gateway.apply(vec![service("test", &["/test"], &[bad.address])]).await;
        let response = tokio::spawn({
            let gateway = gateway.clone();
            async move { gateway.send(request(method, "/test", "")).await.problem() }
        });
        got.notified().await;
        gateway.apply(vec![service("test", &["/test"], &[])]).await;
        release.notify_one();
        let (status, kind) = response.await.expect("no panic");
        assert_eq!((status, &*kind), expected);
    }
}

/// With such a response the second endpoint only says that it did nothing itself.
#[tokio::test]
async fn the_outcome_is_unknown_if_a_retry_is_refused_for_now() {
    for status in ["408 Request Timeout", "421 Misdirected Request", "425 Too Early", "429 Too Many Requests"] {
        let stub = Stub::raw(move |mut stream, number| async move {
            read_head(&mut stream).await;
            if number > 0 {
                let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(response.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let gateway = TestGateway::with(&[], &[&stub]);
        let response = gateway.send(request(Method::PUT, "/test", "x")).await;
        assert_eq!(response.problem(), (502, "outcome-unknown".to_owned()), "{status}");
        assert_eq!(stub.connections(), 2, "{status}");
    }
}

/// The first endpoint may have deleted it.
#[tokio::test]
async fn the_outcome_of_a_repeated_delete_is_unknown_if_nothing_is_left() {
    for status in ["404 Not Found", "410 Gone"] {
        for (method, expected) in [(Method::DELETE, 502), (Method::PUT, status[..3].parse().expect("a status"))] {
            let stub = Stub::raw(move |mut stream, number| async move {
                while read_head(&mut stream).await.is_some() && number > 0 {
                    let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    let _ = stream.write_all(response.as_bytes()).await;
                }
            })
            .await;
            let gateway = TestGateway::with(&[], &[&stub]);
            let response = gateway.send(request(method.clone(), "/test", "")).await;
            assert_eq!(response.status, expected, "{method} {status}");
            assert_eq!(Problem::has_unknown_outcome(&response.headers), expected == 502, "{method} {status}");
            assert_eq!(stub.connections(), 2, "{method} {status}");
            // What was sent once has the outcome that the response says.
            let response = gateway.send(request(method.clone(), "/test", "")).await;
            assert_eq!(response.status.to_string(), *status, "{method}");
        }
    }
}
