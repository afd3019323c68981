//! Services, routes and endpoints that come and go.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use super::{
    routing::named,
    stub::{read_head, write_response},
    *,
};

#[tokio::test]
async fn services_may_appear_move_and_disappear() {
    let (first, second) = (named("first").await, named("second").await);
    let gateway = TestGateway::of(&[], Vec::new());
    assert_eq!(gateway.get("/a").await.status, 404);
    let becomes = async |path: &str, text: &str| {
        eventually("the route is applied", TIMEOUT, async || {
            (gateway.get(path).await.text().starts_with(text)).then_some(())
        })
        .await;
    };
    gateway.publish(vec![service("first", &["/a"], &[first.address])]);
    becomes("/a", "first").await;
    gateway.publish(vec![
        service("first", &["/a"], &[first.address]),
        service("second", &["/b", "/a/b"], &[second.address]),
    ]);
    becomes("/a/b", "second").await;
    assert!(gateway.get("/a/c").await.text().starts_with("first"));
    gateway.publish(vec![service("first", &["/b"], &[first.address]), service("second", &["/a"], &[second.address])]);
    becomes("/b", "first").await;
    assert!(gateway.get("/a").await.text().starts_with("second"));
    // The same paths, with their services swapped.
    gateway.publish(vec![service("first", &["/a"], &[first.address]), service("second", &["/b"], &[second.address])]);
    becomes("/a", "first").await;
    assert!(gateway.get("/b").await.text().starts_with("second"));
    gateway.publish(vec![service("first", &["/b"], &[]), service("second", &["/a"], &[second.address])]);
    eventually("the service has no endpoint", TIMEOUT, async || (gateway.get("/b").await.status == 503).then_some(()))
        .await;
    let response = gateway.get("/b").await;
    assert_eq!((response.problem().0, response.header("retry-after")), (503, Some("1")));
    gateway.publish(Vec::new());
    eventually("the service is gone", TIMEOUT, async || (gateway.get("/b").await.status == 404).then_some(())).await;
    assert_eq!(gateway.metric("gateway_routes"), 0);
}

#[tokio::test]
async fn a_removed_service_leaves_nothing_behind() {
    let ended = Arc::new(AtomicBool::new(false));
    let stub = Stub::raw({
        let ended = ended.clone();
        move |mut stream, _| {
            let ended = ended.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    write_response(&mut stream, "hello").await;
                }
                ended.store(true, Ordering::SeqCst);
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let metrics = || TextEncoder::new().encode_to_string(&gateway.registry.gather()).expect("text");
    assert_eq!(gateway.get("/test").await.text(), "hello");
    eventually("the request is counted", TIMEOUT, async || {
        metrics().contains(r#"http_requests_total{method="GET",route="/test""#).then_some(())
    })
    .await;
    gateway.apply(Vec::new()).await;
    let soon = Duration::from_secs(5);
    eventually("its connection is closed", soon, async || ended.load(Ordering::SeqCst).then_some(())).await;
    eventually("its metrics are removed", soon, async || (!metrics().contains(r#"service="test""#)).then_some(()))
        .await;
}

/// Other services and routes change, and endpoints come and go, under constant load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_fail_no_request() {
    let stubs = [named("test").await, named("test").await, named("test").await];
    let addresses = stubs.each_ref().map(|stub| stub.address);
    let services = |round: usize| -> Vec<Service> {
        let endpoints = match round % 3 {
            0 => &addresses[..2],
            1 => &addresses[1..],
            _ => &addresses[..],
        };
        let others = (0..1000).map(|number| {
            let path = format!("/other/{round}/{number}");
            service(&format!("other-{number}"), &[&path], &addresses[..1])
        });
        others.chain([service("test", &["/test"], endpoints)]).collect()
    };
    let gateway = Arc::new(TestGateway::of(&[], services(0)));
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (gateway, done) = (gateway.clone(), done.clone());
        clients.spawn(async move {
            let mut client = http_1(gateway.address).await;
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                client.ready().await.expect("an open connection");
                let response = client.send_request(request(Method::POST, "/test", "x")).await.expect("a response");
                assert_eq!(response.status(), 200);
                TestResponse::read(response).await.expect("a complete response");
                count += 1;
            }
            count
        });
    }
    for round in 1..30 {
        let before: usize = stubs.iter().map(Stub::requests).sum();
        gateway.publish(services(round));
        eventually("requests continue", TIMEOUT, async || {
            (stubs.iter().map(Stub::requests).sum::<usize>() > before + 50).then_some(())
        })
        .await;
    }
    done.store(true, Ordering::Relaxed);
    let counts = clients.join_all().await;
    assert_eq!(
        counts.iter().sum::<usize>(),
        stubs.iter().map(Stub::requests).sum::<usize>(),
        "a request was sent twice"
    );
    assert_eq!(gateway.metric("gateway_routes"), 1001);
    for kind in ["connect", "reset", "timeout", "protocol"] {
        let name = format!(r#"gateway_upstream_errors_total{{kind="{kind}",service="test"}}"#);
        assert_eq!(gateway.metric(&name), 0, "{kind}");
    }
}
