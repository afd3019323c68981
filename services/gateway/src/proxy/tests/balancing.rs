//! Which endpoint a request goes to, and on which connection.

use test_support::port::Port;
use tokio::{io::AsyncReadExt, sync::Notify, task::JoinSet};

use super::{
    stub::{read_head, whole, write_answer},
    *,
};

/// Answers once it is told to.
async fn waiting(go: &Arc<Notify>) -> Stub {
    let go = go.clone();
    Stub::answering(move |_| {
        let go = go.clone();
        async move {
            go.notified().await;
            Response::new(whole("waited"))
        }
    })
    .await
}

#[tokio::test]
async fn all_endpoints_get_their_share() {
    let stubs = [Stub::saying("a").await, Stub::saying("b").await, Stub::saying("c").await];
    let site = Site::with(&[], &stubs.each_ref());
    for _ in 0..300 {
        site.get("/test").await;
    }
    for stub in &stubs {
        assert!((60..=140).contains(&stub.requests()), "{} of 300", stub.requests());
    }
}

#[tokio::test]
async fn an_endpoint_that_is_slow_gets_no_more_while_others_are_idle() {
    let go = Arc::new(Notify::new());
    let (slow, fast) = (waiting(&go).await, Stub::saying("fast").await);
    let site = Arc::new(Site::with(&[], &[&slow, &fast]));
    let done = Arc::<AtomicUsize>::default();
    let mut requests = JoinSet::new();
    for count in 1..=100 {
        requests.spawn({
            let (site, done) = (site.clone(), done.clone());
            async move {
                assert_eq!(site.get("/test").await.status, 200);
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        eventually("it is answered, or with the slow endpoint", PATIENCE, async || {
            (done.load(Ordering::SeqCst) + slow.requests() == count).then_some(())
        })
        .await;
    }
    assert_eq!(slow.requests(), 1);
    go.notify_one();
    requests.join_all().await;
}

#[tokio::test]
async fn connections_are_used_again() {
    let stub = Stub::saying("hello").await;
    let site = Site::with(&[], &[&stub]);
    let mut client = http_1(site.address).await;
    for _ in 0..20 {
        client.ready().await.expect("it is kept open");
        for (method, body) in [(Method::GET, ""), (Method::HEAD, ""), (Method::POST, "body")] {
            let answer = client.send_request(request(method, "/test", body)).await.expect("an answer");
            assert_eq!(Answer::read(answer).await.expect("all of it").status, 200);
            client.ready().await.expect("it is kept open");
        }
    }
    assert_eq!((stub.requests(), stub.connections()), (60, 1));
}

/// Whatever the method: nothing had been sent.
#[tokio::test]
async fn a_connection_that_its_endpoint_has_closed_costs_no_request() {
    let stub = Stub::raw(async |mut stream, _| {
        if read_head(&mut stream).await.is_some() {
            write_answer(&mut stream, "hello").await;
        }
        // And closes, without having said so.
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    for count in 1..=50 {
        let method = if count % 2 == 0 { Method::POST } else { Method::GET };
        let answer = site.send(request(method, "/test", "")).await;
        assert_eq!(answer.text(), "hello");
        assert_eq!(stub.connections(), count);
    }
    assert_eq!(site.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#), 0);
    assert_eq!(site.metric(r#"gateway_upstream_retries_total{service="test"}"#), 0);
}

#[tokio::test]
async fn an_endpoint_that_says_it_closes_is_believed() {
    let stub = Stub::answering(async |_| {
        Response::builder().header("connection", "close").body(whole("hello")).expect("a response")
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let mut client = http_1(site.address).await;
    for count in 1..=5 {
        client.ready().await.expect("that is between the gateway and the endpoint");
        let answer = client.send_request(request(Method::POST, "/test", "x")).await.expect("an answer");
        assert_eq!(answer.headers().get("connection"), None);
        assert_eq!(Answer::read(answer).await.expect("all of it").text(), "hello");
        assert_eq!(stub.connections(), count);
    }
}

/// Its requests in flight end, and its idle connections are closed.
#[tokio::test]
async fn an_endpoint_that_leaves_gets_no_new_requests() {
    let go = Arc::new(Notify::new());
    let (leaving, staying) = (waiting(&go).await, Stub::saying("other").await);
    let site = Arc::new(Site::with(&[], &[&leaving]));
    let in_flight = tokio::spawn({
        let site = site.clone();
        async move { site.get("/test").await.text().to_owned() }
    });
    eventually("it is in flight", PATIENCE, async || (leaving.requests() == 1).then_some(())).await;
    site.told(vec![service("test", &["/test"], &[staying.address])]).await;
    for _ in 0..20 {
        assert_eq!(site.get("/test").await.text(), "other");
    }
    assert_eq!(leaving.requests(), 1);
    go.notify_one();
    assert_eq!(in_flight.await.expect("no panic"), "waited");
}

#[tokio::test]
async fn idle_connections_to_an_endpoint_that_leaves_are_closed() {
    let closed = Arc::new(Notify::new());
    let stub = Stub::raw({
        let closed = closed.clone();
        move |mut stream, _| {
            let closed = closed.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    write_answer(&mut stream, "hello").await;
                }
                closed.notify_one();
            }
        }
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    assert_eq!(site.get("/test").await.text(), "hello");
    assert!(tokio::time::timeout(MOMENT, closed.notified()).await.is_err(), "it is kept");
    let nobody = Port::free();
    site.tell(vec![service("test", &["/test"], &[nobody.address])]);
    tokio::time::timeout(PATIENCE, closed.notified()).await.expect("it is closed");
}

#[tokio::test]
async fn idle_connections_are_closed_long_before_the_services_would() {
    assert!(runtime::CLIENT_IDLE_TIMEOUT * 2 < runtime::HEADER_READ_TIMEOUT);
    let stub = Stub::raw(async |mut stream, _| {
        while read_head(&mut stream).await.is_some() {
            write_answer(&mut stream, "hello").await;
        }
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    site.get("/test").await;
    tokio::time::sleep(runtime::CLIENT_IDLE_TIMEOUT + MOMENT).await;
    site.get("/test").await;
    assert_eq!(stub.connections(), 2);
}
