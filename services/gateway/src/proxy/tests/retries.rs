//! Which requests are sent again, and how often.

use std::{collections::HashSet, time::Instant};

use test_support::{port::Port, raw::Raw};
use tokio::{io::AsyncReadExt, sync::Notify};

use super::{
    ejections::{EJECTIONS, most_ejections},
    stub::{full_body, read_head, resetting},
    *,
};

const RETRIES: &str = r#"gateway_upstream_retries_total{service="test"}"#;

#[tokio::test]
async fn any_request_is_retried_if_the_connection_fails() {
    let stub = Stub::responding(async |request| {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Response::new(full_body(body))
    })
    .await;
    let (unused, started) = (Port::free(), Instant::now());
    let gateway = TestGateway::of(&[], both(unused.address, stub.address));
    for number in 0..20 {
        let body = format!("body {number}");
        assert_eq!(gateway.post("/test", &body).await.text(), body);
    }
    // One failed connection is enough for an ejection.
    let failures = gateway.metric(RETRIES);
    assert!((1..=most_ejections(started)).contains(&failures), "{failures}");
    assert_eq!(gateway.metric(EJECTIONS), failures);
    assert_eq!(stub.requests(), 20);
}

#[tokio::test]
async fn repeatable_requests_are_retried_if_no_response_arrives() {
    let resets = Arc::default();
    let (bad, good) = (
        resetting(&resets).await,
        Stub::responding(async |request| {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            Response::new(full_body(body))
        })
        .await,
    );
    let gateway = TestGateway::of(&[], both(bad.address, good.address));
    let large = "x".repeat(60_000);
    let mut sent = 0;
    while resets.load(Ordering::SeqCst) < 3 {
        for request in [
            request(Method::GET, "/test", ""),
            request(Method::HEAD, "/test", ""),
            request(Method::DELETE, "/test", ""),
            request(Method::OPTIONS, "/test", ""),
            request(Method::PUT, "/test", &large),
            keyed("/test", &large),
        ] {
            let expected = if request.method() == Method::HEAD {
                0
            } else {
                http_body::Body::size_hint(request.body()).exact().expect("a size")
            };
            let response = gateway.send(request).await;
            assert_eq!((response.status.as_u16(), response.body.len() as u64), (200, expected));
            sent += 1;
        }
        assert!(sent < 1000, "the bad endpoint was never tried");
    }
    assert_eq!(good.requests(), sent);
    assert_eq!(gateway.metric(RETRIES), resets.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_body_that_is_too_large_to_buffer_is_not_resent() {
    let resets = Arc::<AtomicUsize>::default();
    let reading = |resets: Arc<AtomicUsize>| {
        Stub::raw(move |mut stream, _| {
            let resets = resets.clone();
            async move {
                if read_head(&mut stream).await.is_some() {
                    resets.fetch_add(1, Ordering::SeqCst);
                    // Reads so much that the gateway's buffer is exceeded.
                    let mut left = 66_000;
                    let mut buffer = vec![0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        left -= length.min(left);
                        if left == 0 {
                            return;
                        }
                    }
                }
            }
        })
    };
    let (bad, other) = (reading(resets.clone()).await, reading(resets.clone()).await);
    let gateway = TestGateway::of(&[], both(bad.address, other.address));
    assert_eq!(gateway.send(keyed("/test", &"x".repeat(70_000))).await.problem().0, 502);
    assert_eq!(resets.load(Ordering::SeqCst), 1);
}

/// The buffered part is followed by the rest.
#[tokio::test]
async fn a_partially_received_body_is_resent_completely() {
    let release = Arc::new(Notify::new());
    let bad = Stub::raw({
        let release = release.clone();
        move |mut stream, _| {
            let release = release.clone();
            async move {
                read_head(&mut stream).await;
                release.notified().await;
            }
        }
    })
    .await;
    let good = Stub::responding(async |request| {
        Response::new(full_body(request.into_body().collect().await.expect("a body").to_bytes()))
    })
    .await;
    let gateway = TestGateway::of(&[], vec![service("test", &["/test"], &[bad.address])]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("PUT /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.expect("sent");
    eventually("the request reaches the bad endpoint", TIMEOUT, async || (bad.connections() == 1).then_some(())).await;
    gateway.apply(both(bad.address, good.address)).await;
    release.notify_one();
    eventually("the request reaches the good endpoint", TIMEOUT, async || (good.connections() == 1).then_some(()))
        .await;
    raw.send("6\r\n world\r\n0\r\n\r\n").await.expect("sent");
    let response = raw.response().await.expect("a response");
    assert_eq!((response.status, &*response.body), (200, "hello world"), "{}", response.head);
}

#[tokio::test]
async fn responses_of_502_and_503_are_retried_on_healthy_endpoints() {
    for status in [502, 503] {
        let bad = Stub::responding(move |_| async move {
            Response::builder().status(status).body(full_body("bad")).expect("a response")
        })
        .await;
        let good = Stub::text("good").await;
        let gateway = TestGateway::of(&[], both(bad.address, good.address));
        // As many as the initial retry budget allows.
        for _ in 0..10 {
            assert_eq!(gateway.get("/test").await.text(), "good");
            assert_eq!(gateway.send(keyed("/test", "x")).await.text(), "good");
        }
        let retries = bad.requests();
        assert!(retries > 0, "the bad endpoint was never tried");
        assert_eq!(gateway.metric(RETRIES), retries);
        let post = async || (gateway.post("/test", "x").await.text() == "bad").then_some(());
        eventually("the bad endpoint responds to a request that is not repeatable", TIMEOUT, post).await;
        assert_eq!(gateway.metric(RETRIES), retries);
        // Without another endpoint, the client gets the response.
        gateway.apply(vec![service("test", &["/test"], &[bad.address])]).await;
        assert_eq!(gateway.get("/test").await.text(), "bad");
    }
}

#[tokio::test]
async fn retries_are_limited_by_a_budget() {
    let resets = Arc::default();
    let (bad, other) = (resetting(&resets).await, resetting(&resets).await);
    let started = Instant::now();
    let gateway = TestGateway::of(&[], both(bad.address, other.address));
    for _ in 0..200 {
        assert_eq!(gateway.get("/test").await.status, 502);
    }
    let retries = resets.load(Ordering::SeqCst) - 200;
    // A fifth of the requests, the initial budget, and two per second.
    let limit = 200 / 5 + 20 + usize::try_from(started.elapsed().as_millis() / 500).expect("a small number");
    assert!((40..=limit).contains(&retries), "{retries} retries, expected at most {limit}");
}

#[tokio::test]
async fn requests_with_effects_are_not_retried_once_sent() {
    let resets = Arc::default();
    let (bad, other) = (resetting(&resets).await, resetting(&resets).await);
    let gateway = TestGateway::of(&[], both(bad.address, other.address));
    for request in
        [request(Method::POST, "/test", "x"), request(Method::PATCH, "/test", "x"), request(Method::POST, "/test", "")]
    {
        let before = resets.load(Ordering::SeqCst);
        let response = gateway.send(request).await;
        assert_eq!(response.problem(), (502, "outcome-unknown".to_owned()));
        assert_eq!(resets.load(Ordering::SeqCst), before + 1);
    }
    assert_eq!(gateway.metric(RETRIES), 0);
    // A safe request has no outcome to be unknown.
    assert_eq!(gateway.get("/test").await.problem(), (502, "about:blank".to_owned()));
}

/// Resending on a new connection, because an idle one turned out to be closed, counts as one of the three tries.
#[tokio::test]
async fn a_request_is_never_sent_more_than_three_times() {
    let tries = Arc::<AtomicUsize>::default();
    // Each serves one request on a connection, and resets the connection at every later one.
    let closing = || {
        let tries = tries.clone();
        Stub::raw(move |mut stream, _| {
            let tries = tries.clone();
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    if head.contains("/test/closed") {
                        tries.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    stub::write_response(&mut stream, "ok").await;
                }
            }
        })
    };
    let (first, second, third) = (closing().await, closing().await, closing().await);
    let services = vec![service("test", &["/test"], &[first.address, second.address, third.address])];
    let gateway = TestGateway::of(&[], services);
    // One client connection stays on one thread, which then has idle connections to all endpoints.
    let mut client = http_1(gateway.address).await;
    eventually("idle connections to all endpoints", TIMEOUT, async || {
        client.ready().await.expect("an open connection");
        let response = client.send_request(request(Method::GET, "/test", "")).await.expect("a response");
        assert_eq!(TestResponse::read(response).await.expect("a complete response").status, 200);
        let is_connected = |stub: &&Stub| stub.connections() > 0;
        [&first, &second, &third].iter().all(is_connected).then_some(())
    })
    .await;
    client.ready().await.expect("an open connection");
    let response = client.send_request(request(Method::GET, "/test/closed", "")).await.expect("a response");
    assert_eq!(TestResponse::read(response).await.expect("a complete response").status, 502);
    let tries = tries.load(Ordering::SeqCst);
    assert!((2..=3).contains(&tries), "{tries}");
}

#[tokio::test]
async fn a_post_is_repeated_only_where_the_service_honors_keys() {
    let resets = Arc::default();
    let (first, second) = (resetting(&resets).await, resetting(&resets).await);
    let keys = |keys: &[&str]| {
        let idempotency_keys = keys.iter().map(ToString::to_string).collect();
        vec![Service { idempotency_keys, ..service("test", &["/test"], &[first.address, second.address]) }]
    };
    let gateway = TestGateway::of(&[], keys(&["/test/orders"]));
    let send = async |method: Method, path: &str, key: Option<&'static str>| {
        let mut request = request(method, path, "");
        request.headers_mut().extend(key.map(|key| (retry_key(), http::HeaderValue::from_static(key))));
        let before = resets.load(Ordering::SeqCst);
        assert_eq!(gateway.send(request).await.problem(), (502, "outcome-unknown".to_owned()));
        resets.load(Ordering::SeqCst) - before
    };
    for method in [Method::POST, Method::PATCH] {
        for (path, key, is_repeated) in [
            ("/test/orders", Some("k"), true),
            ("/test/orders/1", Some("k"), true),
            ("/test/orders", Some(""), false),
            ("/test/orders", Some(" "), false),
            ("/test/orders", None, false),
            ("/test/ordersx", Some("k"), false),
            ("/test", Some("k"), false),
        ] {
            let count = send(method.clone(), path, key).await;
            assert_eq!(count > 1, is_repeated, "{method} {path} {key:?}: {count}");
        }
    }
    // The service may take either.
    let mut twice = keyed("/test/orders", "");
    twice.headers_mut().append(retry_key(), http::HeaderValue::from_static("l"));
    let before = resets.load(Ordering::SeqCst);
    assert_eq!(gateway.send(twice).await.status, 502);
    assert_eq!(resets.load(Ordering::SeqCst) - before, 1);
    // The declaration takes effect and ends without a new route.
    gateway.apply(keys(&[])).await;
    assert_eq!(send(Method::POST, "/test/orders", Some("k")).await, 1);
    gateway.apply(keys(&["/test"])).await;
    assert!(send(Method::POST, "/test", Some("k")).await > 1);
}

fn retry_key() -> http::HeaderName {
    http::HeaderName::from_static("idempotency-key")
}

/// The change that the precondition found may be that of the first attempt.
#[tokio::test]
async fn a_failed_precondition_of_a_repeated_put_is_unknown() {
    let resets = Arc::default();
    let bad = resetting(&resets).await;
    let good = Stub::responding(async |_| {
        Response::builder().status(412).body(full_body("precondition")).expect("a response")
    })
    .await;
    let gateway = TestGateway::of(&[], both(bad.address, good.address));
    let put = async || {
        let before = resets.load(Ordering::SeqCst);
        let response = gateway.send(request(Method::PUT, "/test", "new")).await;
        (resets.load(Ordering::SeqCst) > before, response)
    };
    let mut first_was_reset = HashSet::new();
    for _ in 0..1000 {
        let (was_reset, response) = put().await;
        assert_eq!(response.status.as_u16(), if was_reset { 502 } else { 412 });
        assert_eq!(Problem::has_unknown_outcome(&response.headers), was_reset);
        first_was_reset.insert(was_reset);
        if first_was_reset.len() == 2 {
            return;
        }
    }
    panic!("only one of both endpoints was tried first: {first_was_reset:?}");
}

/// A framework may execute a GET or PUT as a POST.
#[tokio::test]
async fn a_request_that_overrides_its_method_is_not_repeated() {
    for name in ["x-http-method", "x-http-method-override", "x-method-override", "X_HTTP_Method_Override"] {
        let resets = Arc::default();
        let bad = resetting(&resets).await;
        let gateway = TestGateway::of(&[], both(bad.address, bad.address));
        let mut request = request(Method::PUT, "/test", "x");
        request.headers_mut().insert(name, http::HeaderValue::from_static("POST"));
        assert_eq!(gateway.send(request).await.problem(), (502, "outcome-unknown".to_owned()), "{name}");
        assert_eq!(resets.load(Ordering::SeqCst), 1, "{name}");
    }
}
