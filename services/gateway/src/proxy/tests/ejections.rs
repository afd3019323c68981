//! Which endpoints are ejected, and how they recover.

use std::{sync::atomic::AtomicBool, time::Instant};

use futures_util::stream;
use http_body_util::StreamBody;
use test_support::port::Port;
use tokio::io::AsyncWriteExt;

use super::{
    stub::{full_body, read_head, write_response},
    *,
};

pub(super) const EJECTIONS: &str = r#"gateway_upstream_ejections_total{service="test"}"#;

/// How often an endpoint that always fails can have been ejected since then: for one second, then two, then four.
pub(super) fn most_ejections(since: Instant) -> usize {
    (since.elapsed().as_secs() + 1).ilog2() as usize + 1
}

/// 503 means an unavailable database or overload, which other endpoints would report as well.
#[tokio::test]
async fn an_endpoint_that_responds_with_503_is_not_ejected() {
    let busy =
        Stub::responding(async |_| Response::builder().status(503).body(full_body("busy")).expect("a response")).await;
    let good = Stub::text("good").await;
    let gateway = TestGateway::of(&[], both(busy.address, good.address));
    for _ in 0..60 {
        gateway.post("/test", "x").await;
    }
    assert!(busy.requests() > 10, "{}", busy.requests());
    assert_eq!(gateway.metric(EJECTIONS), 0);
}

#[tokio::test]
async fn a_failing_endpoint_is_ejected_and_recovers() {
    let (bad, good) = (Port::free(), Stub::text("good").await);
    let gateway = TestGateway::of(&[], both(bad.address, good.address));
    let started = Instant::now();
    eventually("the endpoint is ejected", TIMEOUT, async || {
        assert_eq!(gateway.post("/test", "x").await.text(), "good");
        (gateway.metric(EJECTIONS) > 0).then_some(())
    })
    .await;
    for _ in 0..10 {
        assert_eq!(gateway.post("/test", "x").await.text(), "good");
    }
    let ejections = gateway.metric(EJECTIONS);
    assert!(ejections <= most_ejections(started), "{ejections}");
    let back = Stub::at(bad, async |_| Response::new(full_body("back"))).await;
    eventually("the endpoint has recovered", TIMEOUT, async || {
        let response = gateway.post("/test", "x").await;
        assert_eq!(response.status, 200);
        (response.text() == "back").then_some(())
    })
    .await;
    // It gets its share of requests.
    for _ in 0..100 {
        gateway.get("/test").await;
    }
    assert!(back.requests() > 20, "{}", back.requests());
}

/// Responds with its name, or with 502 while it fails. The response to a request for `/test/stream` never ends.
async fn streaming(name: &'static str, fails: &Arc<AtomicBool>) -> Stub {
    let fails = fails.clone();
    Stub::responding(move |request| {
        let status = if fails.load(Ordering::SeqCst) { 502 } else { 200 };
        let body = if request.uri().path() == "/test/stream" {
            StreamBody::new(stream::pending()).boxed()
        } else {
            full_body(name)
        };
        async move { Response::builder().status(status).body(body).expect("a response") }
    })
    .await
}

#[tokio::test]
async fn an_ejected_endpoint_with_an_open_stream_recovers() {
    let fails = Arc::default();
    let (flaky, steady) = (streaming("flaky", &fails).await, streaming("steady", &Arc::default()).await);
    let gateway = TestGateway::with(&[], &[&flaky]);
    let open = async || {
        let mut client = http_1(gateway.address).await;
        let response = client.send_request(request(Method::GET, "/test/stream", "")).await.expect("a response");
        (client, response)
    };
    let first = open().await;
    gateway.apply(both(flaky.address, steady.address)).await;
    // The other endpoint has fewer requests in flight. Now each has one.
    let second = open().await;
    assert_eq!((flaky.requests(), steady.requests()), (1, 1));
    fails.store(true, Ordering::SeqCst);
    eventually("the endpoint is ejected", TIMEOUT, async || {
        gateway.post("/test", "x").await;
        (gateway.metric(EJECTIONS) > 0).then_some(())
    })
    .await;
    fails.store(false, Ordering::SeqCst);
    let post = async || (gateway.post("/test", "x").await.text() == "flaky").then_some(());
    eventually("the endpoint has recovered", TIMEOUT, post).await;
    drop((first, second));
}

/// Reads the request and responds with its name, or with 502 while it fails.
async fn reading(name: &'static str, fails: &Arc<AtomicBool>) -> Stub {
    let fails = fails.clone();
    Stub::responding(move |request| {
        let fails = fails.clone();
        async move {
            let _ = request.into_body().collect().await;
            let status = if fails.load(Ordering::SeqCst) { 502 } else { 200 };
            Response::builder().status(status).body(full_body(name)).expect("a response")
        }
    })
    .await
}

#[tokio::test]
async fn a_slow_upload_does_not_keep_others_from_probing() {
    let fails = Arc::new(AtomicBool::new(true));
    let (flaky, steady) = (reading("flaky", &fails).await, reading("steady", &Arc::default()).await);
    let timeouts = ["--header-timeout=5m", "--total-timeout=5m"];
    let gateway = TestGateway::of(&timeouts, both(flaky.address, steady.address));
    eventually("the endpoint is ejected", TIMEOUT, async || {
        gateway.post("/test", "x").await;
        (gateway.metric(EJECTIONS) > 0).then_some(())
    })
    .await;
    fails.store(false, Ordering::SeqCst);
    let (requests, mut uploads) = (flaky.requests(), Vec::new());
    eventually("an upload probes the endpoint", TIMEOUT, async || {
        let mut upload = TcpStream::connect(gateway.address).await.expect("a connection");
        let begun = b"POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx";
        upload.write_all(begun).await.expect("sent");
        uploads.push(upload);
        (flaky.requests() > requests).then_some(())
    })
    .await;
    // A probe that nothing ends keeps others away for longer than that.
    let post = async || (gateway.post("/test", "x").await.text() == "flaky").then_some(());
    eventually("the endpoint has recovered", TIMEOUT / 2, post).await;
}

#[tokio::test]
async fn the_last_healthy_endpoint_is_never_ejected() {
    let flaky = Stub::raw(async |mut stream, number| {
        if read_head(&mut stream).await.is_some() && number >= 10 {
            write_response(&mut stream, "well").await;
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&flaky]);
    for number in 0..20 {
        let response = gateway.post("/test", "x").await;
        assert_eq!(response.status.as_u16(), if number < 10 { 502 } else { 200 }, "{number}");
    }
    // Of two endpoints, the second to fail is the last healthy one.
    let dead = Port::free();
    gateway.apply(both(flaky.address, dead.address)).await;
    for _ in 0..20 {
        assert_eq!(gateway.post("/test", "x").await.status, 200);
    }
    let port = flaky.kill().await;
    for _ in 0..20 {
        assert_eq!(gateway.post("/test", "x").await.problem(), (503, "about:blank".to_owned()));
    }
    let again = Stub::at(port, async |_| Response::new(full_body("again"))).await;
    assert_eq!(gateway.post("/test", "x").await.text(), "again", "it must not have been ejected");
    drop(again);
}
