//! Which service a request goes to, while services come and go.

use std::sync::atomic::{AtomicBool, Ordering};

use test_support::raw::Raw;
use tokio::task::JoinSet;

use super::{
    stub::{read_head, whole, write_answer},
    *,
};

/// Tells the service, and what it was asked.
async fn named(name: &'static str) -> Stub {
    Stub::answering(move |request| async move {
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let text = format!("{name} {} {} {host}", request.method(), request.uri());
        Response::new(whole(text))
    })
    .await
}

#[tokio::test]
async fn a_request_goes_to_the_service_of_its_path_with_its_target_as_it_stands() {
    let (users, stock) = (named("users").await, named("stock").await);
    let services = vec![
        service("stock", &["/inventory", "/users/stock"], &[stock.address]),
        service("users", &["/users"], &[users.address]),
    ];
    let site = Site::of(&[], services);
    for (path, expected) in [
        ("/users", "users GET /users shop.example"),
        ("/users?a=/../b", "users GET /users?a=/../b shop.example"),
        ("/users/1%2f2/%e2%82%ac?x=%00&y", "users GET /users/1%2f2/%e2%82%ac?x=%00&y shop.example"),
        ("/users//1/", "users GET /users//1/ shop.example"),
        ("/users/stock/3", "stock GET /users/stock/3 shop.example"),
        ("/inventory", "stock GET /inventory shop.example"),
    ] {
        assert_eq!(site.get(path).await.text(), expected);
    }
    for path in ["/", "/usersx", "//users", "/%75sers", "/Users", "/users%2f1"] {
        assert!(matches!(site.get(path).await.status.as_u16(), 404 | 308 | 307), "{path}");
    }
    assert_eq!(site.get("/usersx").await.problem(), (404, "about:blank".to_owned()));
    assert_eq!((users.requests(), stock.requests()), (4, 2));
}

#[tokio::test]
async fn the_documents_are_the_gateways_own_unless_a_service_claims_their_path() {
    let stub = named("test").await;
    let site = Site::of(&["--cors-origins=https://shop.example"], vec![service("test", &["/"], &[stub.address])]);
    for path in ["/docs/", "/openapi.json"] {
        assert_eq!(site.get(path).await.status, 200, "{path}");
        assert_eq!(site.send(request(Method::HEAD, path, "")).await.body, "", "{path}");
        let answer = site.post(path, "x").await;
        assert_eq!((answer.problem().0, answer.header("allow")), (405, Some("GET, HEAD")), "{path}");
        let mut preflight = request(Method::OPTIONS, path, "");
        for (name, value) in [("origin", "https://shop.example"), ("access-control-request-method", "GET")] {
            preflight.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        let answer = site.send(preflight).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (204, None), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.example"), "{path}");
        assert!(answer.headers.contains_key("access-control-allow-methods"), "{path}");
    }
    assert_eq!(stub.requests(), 1, "for its document");

    site.told(vec![service("test", &["/docs"], &[stub.address])]).await;
    for method in [Method::GET, Method::POST] {
        assert_eq!(
            site.send(request(method.clone(), "/docs/x", "")).await.text(),
            format!("test {method} /docs/x shop.example")
        );
    }
    assert_eq!(site.get("/openapi.json").await.status, 200);
}

#[tokio::test]
async fn a_path_that_could_be_resolved_is_refused() {
    let stub = named("users").await;
    let site = Site::of(&[], vec![service("users", &["/users", "/"], &[stub.address])]);
    for path in
        ["/users/../inventory", "/users/%2e%2e/inventory", "/users/..%2f", "/users/..\\x", "/./users", "/users/..;/x"]
    {
        assert_eq!(site.get(path).await.problem(), (400, "about:blank".to_owned()), "{path}");
    }
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn a_target_in_absolute_form_says_which_host_is_meant() {
    let stub = named("users").await;
    let site = Site::of(&[], vec![service("users", &["/users"], &[stub.address])]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("GET http://a.example:81/users/1?x HTTP/1.1\r\nhost: b.example\r\n\r\n").await.expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").body, "users GET /users/1?x a.example:81");
    raw.send("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example\r\n\r\n").await.expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").status, 501);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("OPTIONS * HTTP/1.1\r\nhost: a.example\r\n\r\n").await.expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").status, 404);
}

#[tokio::test]
async fn the_trailers_of_a_request_end_here() {
    let stub = Stub::answering(async |request| {
        let is_announced = request.headers().contains_key("trailer");
        let body = request.into_body().collect().await.expect("a body");
        Response::new(whole(format!("{is_announced} {:?} {:?}", body.trailers().cloned(), body.to_bytes())))
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    let head = "POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-user-id, x-checksum\r\n\r\n";
    let body = "1\r\nx\r\n0\r\nx-user-id: admin\r\nx-checksum: 1\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";
    for _ in 0..2 {
        raw.send(format!("{head}{body}")).await.expect("sent");
        let answer = raw.answer().await.expect("an answer");
        assert_eq!((&*answer.body, answer.closes()), ("false None b\"x\"", false));
    }
}

#[tokio::test]
async fn a_service_is_always_told_a_host_that_is_one() {
    let stub = named("users").await;
    let site = Site::of(&[], vec![service("users", &["/users"], &[stub.address])]);
    let answer = async |request: &str| {
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send(request).await.expect("sent");
        raw.answer().await.expect("an answer")
    };
    assert_eq!(answer("GET /users HTTP/1.0\r\n\r\n").await.body, "users GET /users users");
    for host in ["a", "a:80", "[::1]:80", "xn--caf-dma.example", "a_b.example"] {
        let answer = answer(&format!("GET /users HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(answer.body, format!("users GET /users {host}"));
    }
    for host in ["a/b", "a b", "user@a", "a?b", "a#b", "a\"b", "a\\b", "<a>", "caf\u{e9}"] {
        for version in ["1.0", "1.1"] {
            let answer = answer(&format!("GET /users HTTP/{version}\r\nhost: {host}\r\n\r\n")).await;
            assert_eq!(answer.status, 400, "{host}");
        }
    }
    assert_eq!(stub.requests(), 6);
}

#[tokio::test]
async fn http_2_in_front_is_http_1_behind() {
    let stub = named("users").await;
    let site = Site::of(&[], vec![service("users", &["/users"], &[stub.address])]);
    let mut client = http_2(site.address).await;
    let mut answers = JoinSet::new();
    for number in 0..50 {
        let request = Request::get(format!("http://a.example/users/{number}")).body(Full::new(Bytes::new()));
        let answer = client.send_request(request.expect("a request"));
        answers.spawn(async move { (number, Answer::read(answer.await.expect("an answer")).await.expect("all")) });
    }
    while let Some(answer) = answers.join_next().await {
        let (number, answer) = answer.expect("no panic");
        assert_eq!(answer.text(), format!("users GET /users/{number} a.example"));
    }
    let request = Request::get("/users").body(Full::new(Bytes::new())).expect("a request");
    let answer = client.send_request(request).await;
    assert!(answer.is_err() || answer.expect("an answer").status() == 400, "it does not say for which host it is");
}

#[tokio::test]
async fn services_appear_move_and_go_at_once() {
    let (first, second) = (named("first").await, named("second").await);
    let site = Site::of(&[], Vec::new());
    assert_eq!(site.get("/a").await.status, 404);
    let becomes = async |path: &str, text: &str| {
        eventually("it is routed", PATIENCE, async || (site.get(path).await.text().starts_with(text)).then_some(()))
            .await;
    };
    site.tell(vec![service("first", &["/a"], &[first.address])]);
    becomes("/a", "first").await;
    site.tell(vec![service("first", &["/a"], &[first.address]), service("second", &["/b", "/a/b"], &[second.address])]);
    becomes("/a/b", "second").await;
    assert!(site.get("/a/c").await.text().starts_with("first"));
    site.tell(vec![service("first", &["/b"], &[first.address]), service("second", &["/a"], &[second.address])]);
    becomes("/b", "first").await;
    assert!(site.get("/a").await.text().starts_with("second"));
    // As many routes as before, and each another one's.
    site.tell(vec![service("first", &["/a"], &[first.address]), service("second", &["/b"], &[second.address])]);
    becomes("/a", "first").await;
    assert!(site.get("/b").await.text().starts_with("second"));
    site.tell(vec![service("first", &["/b"], &[]), service("second", &["/a"], &[second.address])]);
    eventually("it has no endpoint", PATIENCE, async || (site.get("/b").await.status == 503).then_some(())).await;
    let answer = site.get("/b").await;
    assert_eq!((answer.problem().0, answer.header("retry-after")), (503, Some("1")));
    site.tell(Vec::new());
    eventually("it is gone", PATIENCE, async || (site.get("/b").await.status == 404).then_some(())).await;
    assert_eq!(site.metric("gateway_routes"), 0);
}

#[tokio::test]
async fn of_a_service_that_is_gone_nothing_is_left() {
    let ended = Arc::new(AtomicBool::new(false));
    let stub = Stub::raw({
        let ended = ended.clone();
        move |mut stream, _| {
            let ended = ended.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    write_answer(&mut stream, "hello").await;
                }
                ended.store(true, Ordering::SeqCst);
            }
        }
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let metrics = || TextEncoder::new().encode_to_string(&site.registry.gather()).expect("text");
    assert_eq!(site.get("/test").await.text(), "hello");
    eventually("it is counted", PATIENCE, async || {
        metrics().contains(r#"http_requests_total{method="GET",route="/test""#).then_some(())
    })
    .await;
    site.told(Vec::new()).await;
    let soon = Duration::from_secs(5);
    eventually("no connection is kept", soon, async || ended.load(Ordering::SeqCst).then_some(())).await;
    eventually("no metric names it", soon, async || (!metrics().contains(r#"service="test""#)).then_some(())).await;
}

/// While requests come without a pause: other services and routes change, endpoints come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_costs_a_request() {
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
    let site = Arc::new(Site::of(&[], services(0)));
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (site, done) = (site.clone(), done.clone());
        clients.spawn(async move {
            let mut client = http_1(site.address).await;
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                client.ready().await.expect("it is kept open");
                let answer = client.send_request(request(Method::POST, "/test", "x")).await.expect("an answer");
                assert_eq!(answer.status(), 200);
                Answer::read(answer).await.expect("all of it");
                count += 1;
            }
            count
        });
    }
    for round in 1..30 {
        let before: usize = stubs.iter().map(Stub::requests).sum();
        site.tell(services(round));
        eventually("requests go on", PATIENCE, async || {
            (stubs.iter().map(Stub::requests).sum::<usize>() > before + 50).then_some(())
        })
        .await;
    }
    done.store(true, Ordering::Relaxed);
    let counts = clients.join_all().await;
    assert_eq!(counts.iter().sum::<usize>(), stubs.iter().map(Stub::requests).sum::<usize>(), "none was sent twice");
    assert_eq!(site.metric("gateway_routes"), 1001);
    for kind in ["connect", "reset", "timeout", "protocol"] {
        let name = format!(r#"gateway_upstream_errors_total{{kind="{kind}",service="test"}}"#);
        assert_eq!(site.metric(&name), 0, "{kind}");
    }
}

/// It is that of CONNECT alone (RFC 9112, section 3.2.3), and has no path to route by.
#[tokio::test]
async fn a_target_that_is_only_a_host_is_refused() {
    let stub = named("test").await;
    let site = Site::of(&[], vec![service("test", &["/"], &[stub.address])]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    for target in ["foo", "foo:80", "shop.example"] {
        raw.send(format!("GET {target} HTTP/1.1\r\nhost: shop.example\r\n\r\n")).await.expect("sent");
        assert_eq!(raw.answer().await.expect("an answer").status, 400, "{target}");
    }
    raw.send("GET http://foo HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").body, "test GET / foo");
    assert_eq!(stub.requests(), 1);
}
