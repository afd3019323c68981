//! The choice of endpoint and connection.

use test_support::port::Port;
use tokio::{io::AsyncReadExt, sync::Notify, task::JoinSet};

use super::{
    stub::{full_body, read_head, write_response},
    *,
};

/// A service that responds when it is notified.
async fn waiting(release: &Arc<Notify>) -> Stub {
    let release = release.clone();
    Stub::responding(move |_| {
        let release = release.clone();
        async move {
            release.notified().await;
            Response::new(full_body("waited"))
        }
    })
    .await
}

#[tokio::test]
async fn requests_are_spread_over_all_endpoints() {
    let stubs = [Stub::text("a").await, Stub::text("b").await, Stub::text("c").await];
    let gateway = TestGateway::with(&[], &stubs.each_ref());
    for _ in 0..300 {
        gateway.get("/test").await;
    }
    for stub in &stubs {
        assert!((60..=140).contains(&stub.requests()), "{} of 300", stub.requests());
    }
}

#[tokio::test]
async fn a_slow_endpoint_gets_no_requests_while_others_are_idle() {
    let release = Arc::new(Notify::new());
    let (slow, fast) = (waiting(&release).await, Stub::text("fast").await);
    let gateway = Arc::new(TestGateway::with(&[], &[&slow, &fast]));
    let done = Arc::<AtomicUsize>::default();
    let mut requests = JoinSet::new();
    for count in 1..=100 {
        requests.spawn({
            let (gateway, done) = (gateway.clone(), done.clone());
            async move {
                assert_eq!(gateway.get("/test").await.status, 200);
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        eventually("the request is completed, or waits for the slow endpoint", TIMEOUT, async || {
            (done.load(Ordering::SeqCst) + slow.requests() == count).then_some(())
        })
        .await;
    }
    assert_eq!(slow.requests(), 1);
    release.notify_one();
    requests.join_all().await;
}

#[tokio::test]
async fn connections_are_reused() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut client = http_1(gateway.address).await;
    for _ in 0..20 {
        client.ready().await.expect("an open connection");
        for (method, body) in [(Method::GET, ""), (Method::POST, "body")] {
            let response = client.send_request(request(method, "/test", body)).await.expect("a response");
            assert_eq!(TestResponse::read(response).await.expect("a complete response").status, 200);
            client.ready().await.expect("an open connection");
        }
    }
    assert_eq!((stub.requests(), stub.connections()), (40, 1));
}

/// Regardless of the method, because nothing was sent.
#[tokio::test]
async fn a_closed_idle_connection_fails_no_request() {
    let stub = Stub::raw(async |mut stream, _| {
        if read_head(&mut stream).await.is_some() {
            write_response(&mut stream, "hello").await;
        }
        // Closes the connection without announcing it.
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for count in 1..=50 {
        let method = if count % 2 == 0 { Method::POST } else { Method::GET };
        let response = gateway.send(request(method, "/test", "")).await;
        assert_eq!(response.text(), "hello");
        assert_eq!(stub.connections(), count);
    }
    assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#), 0);
    assert_eq!(gateway.metric(r#"gateway_upstream_retries_total{service="test"}"#), 0);
}

#[tokio::test]
async fn connection_close_from_an_endpoint_is_honored() {
    let stub = Stub::responding(async |_| {
        Response::builder().header("connection", "close").body(full_body("hello")).expect("a response")
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut client = http_1(gateway.address).await;
    for count in 1..=5 {
        client.ready().await.expect("the client's connection stays open");
        let response = client.send_request(request(Method::POST, "/test", "x")).await.expect("a response");
        assert_eq!(response.headers().get("connection"), None);
        assert_eq!(TestResponse::read(response).await.expect("a complete response").text(), "hello");
        assert_eq!(stub.connections(), count);
    }
}

/// Requests in flight are completed.
#[tokio::test]
async fn a_removed_endpoint_gets_no_new_requests() {
    let release = Arc::new(Notify::new());
    let (removed, other) = (waiting(&release).await, Stub::text("other").await);
    let gateway = Arc::new(TestGateway::with(&[], &[&removed]));
    let in_flight = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.get("/test").await.text().to_owned() }
    });
    eventually("the request is in flight", TIMEOUT, async || (removed.requests() == 1).then_some(())).await;
    gateway.apply(vec![service("test", &["/test"], &[other.address])]).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/test").await.text(), "other");
    }
    assert_eq!(removed.requests(), 1);
    release.notify_one();
    assert_eq!(in_flight.await.expect("no panic"), "waited");
}

#[tokio::test]
async fn idle_connections_to_a_removed_endpoint_are_closed() {
    let closed = Arc::new(Notify::new());
    let stub = Stub::raw({
        let closed = closed.clone();
        move |mut stream, _| {
            let closed = closed.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    write_response(&mut stream, "hello").await;
                }
                closed.notify_one();
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    assert_eq!(gateway.get("/test").await.text(), "hello");
    assert!(tokio::time::timeout(MOMENT, closed.notified()).await.is_err(), "closed too early");
    let unused = Port::free();
    gateway.publish(vec![service("test", &["/test"], &[unused.address])]);
    tokio::time::timeout(TIMEOUT, closed.notified()).await.expect("a closed connection");
}

#[tokio::test]
async fn idle_connections_are_closed_before_the_service_does() {
    assert!(runtime::CLIENT_IDLE_TIMEOUT * 2 < runtime::REQUEST_HEAD_TIMEOUT);
    let stub = Stub::raw(async |mut stream, _| {
        while read_head(&mut stream).await.is_some() {
            write_response(&mut stream, "hello").await;
        }
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    gateway.get("/test").await;
    tokio::time::sleep(runtime::CLIENT_IDLE_TIMEOUT + MOMENT).await;
    gateway.get("/test").await;
    assert_eq!(stub.connections(), 2);
}
