//! Which service gets a request, and what of the request it gets.

use test_support::raw::Raw;
use tokio::task::JoinSet;

use super::{stub::full_body, *};

/// Responds with the name of the service and the request line.
pub(super) async fn named(name: &'static str) -> Stub {
    Stub::responding(move |request| async move {
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let text = format!("{name} {} {} {host}", request.method(), request.uri());
        Response::new(full_body(text))
    })
    .await
}

#[tokio::test]
async fn requests_are_routed_by_path_and_their_target_is_unchanged() {
    let (users, stock) = (named("users").await, named("stock").await);
    let services = vec![
        service("stock", &["/inventory", "/users/stock"], &[stock.address]),
        service("users", &["/users"], &[users.address]),
    ];
    let gateway = TestGateway::of(&[], services);
    for (path, expected) in [
        ("/users", "users GET /users shop.example"),
        ("/users?a=/../b", "users GET /users?a=/../b shop.example"),
        ("/users/1%2f2/%e2%82%ac?x=%00&y", "users GET /users/1%2f2/%e2%82%ac?x=%00&y shop.example"),
        ("/users//1/", "users GET /users//1/ shop.example"),
        ("/users/stock/3", "stock GET /users/stock/3 shop.example"),
        ("/inventory", "stock GET /inventory shop.example"),
    ] {
        assert_eq!(gateway.get(path).await.text(), expected);
    }
    for path in ["/", "/usersx", "//users", "/%75sers", "/Users", "/users%2f1"] {
        assert!(matches!(gateway.get(path).await.status.as_u16(), 404 | 308 | 307), "{path}");
    }
    assert_eq!(gateway.get("/usersx").await.problem(), (404, "about:blank".to_owned()));
    assert_eq!((users.requests(), stock.requests()), (4, 2));
}

#[tokio::test]
async fn the_gateway_serves_documents_unless_a_service_claims_them() {
    let stub = named("test").await;
    let gateway =
        TestGateway::of(&["--cors-origins=https://shop.example"], vec![service("test", &["/"], &[stub.address])]);
    for path in ["/docs/", "/openapi.json"] {
        assert_eq!(gateway.get(path).await.status, 200, "{path}");
        assert_eq!(gateway.send(request(Method::HEAD, path, "")).await.body, "", "{path}");
        let response = gateway.post(path, "x").await;
        assert_eq!((response.problem().0, response.header("allow")), (405, Some("GET, HEAD")), "{path}");
        let mut preflight = request(Method::OPTIONS, path, "");
        for (name, value) in [("origin", "https://shop.example"), ("access-control-request-method", "GET")] {
            preflight.headers_mut().insert(name, http::HeaderValue::from_static(value));
        }
        let response = gateway.send(preflight).await;
        assert_eq!((response.status.as_u16(), response.header("allow")), (204, None), "{path}");
        assert_eq!(response.header("access-control-allow-origin"), Some("https://shop.example"), "{path}");
        assert!(response.headers.contains_key("access-control-allow-methods"), "{path}");
    }
    assert_eq!(stub.requests(), 1, "for its API document");

    gateway.apply(vec![service("test", &["/docs"], &[stub.address])]).await;
    for method in [Method::GET, Method::POST] {
        assert_eq!(
            gateway.send(request(method.clone(), "/docs/x", "")).await.text(),
            format!("test {method} /docs/x shop.example")
        );
    }
    assert_eq!(gateway.get("/openapi.json").await.status, 200);
}

#[tokio::test]
async fn paths_with_dot_segments_are_refused() {
    let stub = named("users").await;
    let gateway = TestGateway::of(&[], vec![service("users", &["/users", "/"], &[stub.address])]);
    for path in
        ["/users/../inventory", "/users/%2e%2e/inventory", "/users/..%2f", "/users/..\\x", "/./users", "/users/..;/x"]
    {
        assert_eq!(gateway.get(path).await.problem(), (400, "about:blank".to_owned()), "{path}");
    }
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn an_absolute_target_determines_the_host() {
    let stub = named("users").await;
    let gateway = TestGateway::of(&[], vec![service("users", &["/users"], &[stub.address])]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("GET http://a.example:81/users/1?x HTTP/1.1\r\nhost: b.example\r\n\r\n").await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").body, "users GET /users/1?x a.example:81");
    raw.send("CONNECT a.example:443 HTTP/1.1\r\nhost: a.example\r\n\r\n").await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").status, 501);
}

/// It is for CONNECT only (RFC 9112, section 3.2.3), and has no path to route by.
#[tokio::test]
async fn a_target_in_authority_form_is_refused() {
    let stub = named("test").await;
    let gateway = TestGateway::of(&[], vec![service("test", &["/"], &[stub.address])]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    for target in ["foo", "foo:80", "shop.example"] {
        raw.send(format!("GET {target} HTTP/1.1\r\nhost: shop.example\r\n\r\n")).await.expect("sent");
        assert_eq!(raw.response().await.expect("a response").status, 400, "{target}");
    }
    raw.send("GET http://foo HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").body, "test GET / foo");
    assert_eq!(stub.requests(), 1);
}

#[tokio::test]
async fn request_trailers_are_dropped() {
    let stub = Stub::responding(async |request| {
        let has_trailer_header = request.headers().contains_key("trailer");
        let body = request.into_body().collect().await.expect("a body");
        Response::new(full_body(format!("{has_trailer_header} {:?} {:?}", body.trailers().cloned(), body.to_bytes())))
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    let head = "POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-user-id, x-checksum\r\n\r\n";
    let body = "1\r\nx\r\n0\r\nx-user-id: admin\r\nx-checksum: 1\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";
    for _ in 0..2 {
        raw.send(format!("{head}{body}")).await.expect("sent");
        let response = raw.response().await.expect("a response");
        assert_eq!((&*response.body, response.closes()), ("false None b\"x\"", false));
    }
}

#[tokio::test]
async fn a_service_always_gets_a_valid_host() {
    let stub = named("users").await;
    let gateway = TestGateway::of(&[], vec![service("users", &["/users"], &[stub.address])]);
    let exchange = async |request: &str| {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        raw.send(request).await.expect("sent");
        raw.response().await.expect("a response")
    };
    assert_eq!(exchange("GET /users HTTP/1.0\r\n\r\n").await.body, "users GET /users users");
    for host in ["a", "a:80", "[::1]:80", "xn--caf-dma.example", "a_b.example"] {
        let response = exchange(&format!("GET /users HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(response.body, format!("users GET /users {host}"));
    }
    for host in ["a/b", "a b", "user@a", "a?b", "a#b", "a\"b", "a\\b", "<a>", "caf\u{e9}"] {
        for version in ["1.0", "1.1"] {
            let response = exchange(&format!("GET /users HTTP/{version}\r\nhost: {host}\r\n\r\n")).await;
            assert_eq!(response.status, 400, "{host}");
        }
    }
    assert_eq!(stub.requests(), 6);
}

#[tokio::test]
async fn http_2_requests_are_passed_on_over_http_1() {
    let stub = named("users").await;
    let gateway = TestGateway::of(&[], vec![service("users", &["/users"], &[stub.address])]);
    let mut client = http_2(gateway.address).await;
    let mut responses = JoinSet::new();
    for number in 0..50 {
        let request = Request::get(format!("http://a.example/users/{number}")).body(Full::new(Bytes::new()));
        let response = client.send_request(request.expect("a request"));
        responses.spawn(async move {
            (number, TestResponse::read(response.await.expect("a response")).await.expect("a complete response"))
        });
    }
    while let Some(response) = responses.join_next().await {
        let (number, response) = response.expect("no panic");
        assert_eq!(response.text(), format!("users GET /users/{number} a.example"));
    }
    let request = Request::get("/users").body(Full::new(Bytes::new())).expect("a request");
    let response = client.send_request(request).await;
    assert!(response.is_err() || response.expect("a response").status() == 400, "a request without a host");
}
