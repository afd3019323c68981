//! Shutdown under load, and slow clients.

use runtime::Phase;
use test_support::raw::{self, Raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    task::JoinSet,
};

use super::{
    stub::{full_body, read_head},
    *,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_under_load_fails_no_request() {
    let stub = Stub::responding(async |request| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Response::new(full_body(request.into_body().collect().await.expect("a body").to_bytes()))
    })
    .await;
    let gateway = TestGateway::with(&["--drain-delay=300ms"], &[&stub]);
    let (address, mut clients) = (gateway.address, JoinSet::new());
    for number in 0..16 {
        let lifecycle = gateway.lifecycle.clone();
        clients.spawn(async move {
            let mut count = 0;
            // Reconnects after `connection: close`, until nothing listens anymore.
            while let Ok(mut raw) = Raw::connect(address).await {
                loop {
                    let body = format!("{number} {count}");
                    let head = format!("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
                    let result = match raw.send(head + &body).await {
                        Ok(()) => raw.response().await,
                        Err(error) => Err(error),
                    };
                    let response = match result {
                        Ok(response) => response,
                        // The kernel accepted the connection after the gateway had stopped accepting.
                        Err(_) if lifecycle.phase() == Phase::Stopping => return count,
                        Err(error) => panic!("no response: {error}"),
                    };
                    assert_eq!((response.status, &response.body), (200, &body));
                    count += 1;
                    if response.closes() {
                        break;
                    }
                }
            }
            count
        });
    }
    eventually("the clients are busy", TIMEOUT, async || (stub.requests() > 200).then_some(())).await;
    let stop = tokio::spawn(gateway.running.stop());
    tokio::time::timeout(TIMEOUT, stop).await.expect("a timely stop").expect("no panic");
    let counts = clients.join_all().await;
    assert_eq!(counts.iter().sum::<i32>(), i32::try_from(stub.requests()).expect("a count"));
}

#[tokio::test]
async fn shutdown_waits_for_requests_in_flight() {
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
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(raw::get("/test")).await.expect("sent");
    eventually("the request is in flight", TIMEOUT, async || (stub.requests() == 1).then_some(())).await;
    let stop = tokio::spawn(gateway.running.stop());
    assert!(tokio::time::timeout(MOMENT * 5, raw.closed()).await.is_err() && !stop.is_finished());
    release.notify_one();
    let response = raw.response().await.expect("a response");
    assert!(response.body == "waited" && response.closes(), "{}", response.head);
    stop.await.expect("a timely stop");
}

#[tokio::test]
async fn slow_request_heads_do_not_delay_other_clients() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&["--max-in-flight=3", "--max-in-flight-per-client=3"], &[&stub]);
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send("GET /test HTTP/1.1\r\nhost: a\r\nx: ").await.expect("sent");
        slow.push(raw);
    }
    for _ in 0..10 {
        assert_eq!(gateway.get("/test").await.text(), "hello");
    }
    for raw in &mut slow {
        raw.send("y\r\n\r\n").await.expect("sent");
        assert_eq!(raw.response().await.expect("a response").body, "hello");
    }
}

/// The kernel still holds a part of the upload when the response arrives.
#[tokio::test]
async fn an_upload_that_was_accepted_early_arrives_completely() {
    const LENGTH: usize = 150_000;
    let (go, (done, mut received)) = (Arc::new(Notify::new()), tokio::sync::mpsc::channel(1));
    let stub = Stub::raw({
        let go = go.clone();
        move |mut stream, _| {
            let (go, done) = (go.clone(), done.clone());
            async move {
                let Some(head) = read_head(&mut stream).await else { return };
                let response = b"HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(response).await.expect("written");
                go.notified().await;
                let mut rest = Vec::new();
                let read = stream.read_to_end(&mut rest).await;
                let _ = done.send(read.map(|_| head.len() + rest.len())).await;
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let response = gateway.post("/test", &"x".repeat(LENGTH)).await;
    assert_eq!(response.status, 202);
    gateway.metric_becomes(r#"gateway_upstream_requests_in_flight{service="test"}"#, 0).await;
    go.notify_one();
    let length = tokio::time::timeout(TIMEOUT, received.recv()).await.expect("in time").expect("a result");
    assert!(length.expect("the whole upload") > LENGTH);
}
