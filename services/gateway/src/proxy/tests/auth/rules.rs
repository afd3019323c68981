//! Which requests a route lets in, and in which order a request is checked.

use super::*;

#[tokio::test]
async fn the_first_rule_that_matches_decides() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let auth = json!({
        "scopes": ["test:read"],
        "rules": [
            { "methods": ["GET"], "paths": ["/test/public"], "mode": "optional" },
            { "paths": ["/test/login"], "mode": "none" },
            { "methods": ["POST"], "scopes": ["test:write"] },
        ],
    });
    let gateway = issuer.gateway(&[], &auth, &stub);
    let (reader, writer) = (issuer.token(&json!({})), issuer.token(&json!({ "scope": "test:write" })));
    let (bad, none) = ("bad".to_owned(), String::new());
    for (method, path, token, status) in [
        (Method::GET, "/test/public", &none, 200),
        (Method::HEAD, "/test/public/1", &none, 200),
        (Method::GET, "/test/public", &writer, 200),
        (Method::GET, "/test/public", &bad, 401),
        (Method::POST, "/test/public", &none, 401),
        (Method::POST, "/test/public", &reader, 403),
        (Method::POST, "/test/public", &writer, 200),
        (Method::GET, "/test/publicity", &none, 401),
        (Method::POST, "/test/login", &none, 200),
        (Method::POST, "/test/login", &bad, 200),
        (Method::GET, "/test", &none, 401),
        (Method::GET, "/test?/test/public", &none, 401),
        (Method::GET, "/test", &reader, 200),
        (Method::DELETE, "/test", &writer, 403),
        (Method::OPTIONS, "/test", &none, 401),
    ] {
        let response = match token.as_str() {
            "" => gateway.send(request(method.clone(), path, "")).await,
            token => gateway.send_with(method.clone(), path, token).await,
        };
        assert_eq!(response.status, status, "{method} {path} {token}");
    }
}

#[tokio::test]
async fn the_settings_decide_where_a_route_does_not_say() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let flag = issuer.flag();
    let (good, bad) = (issuer.token(&json!({})), "bad".to_owned());
    for (flags, auth, anonymous, with_bad, with_good) in [
        (vec![], json!({}), 200, 200, 200),
        (vec![], json!({ "mode": "required" }), 401, 401, 401),
        (vec![], json!({ "mode": "optional" }), 200, 401, 401),
        (vec!["--auth=open", &flag], json!({}), 200, 401, 200),
        (vec!["--auth=open", &flag], json!({ "scopes": ["test:write"] }), 200, 401, 403),
        (vec!["--auth=open", &flag], json!({ "mode": "required" }), 401, 401, 200),
        (vec![&*flag], json!({}), 401, 401, 200),
        (vec![&*flag], json!({ "mode": "optional" }), 200, 401, 200),
        (vec![&*flag], json!({ "mode": "none" }), 200, 200, 200),
    ] {
        let gateway = TestGateway::of(&flags, vec![guarded(&auth, &stub)]);
        let statuses = [
            gateway.get("/test").await.status.as_u16(),
            gateway.send_with(Method::GET, "/test", &bad).await.status.as_u16(),
            gateway.send_with(Method::GET, "/test", &good).await.status.as_u16(),
        ];
        assert_eq!(statuses, [anonymous, with_bad, with_good], "{flags:?} {auth}");
    }
}

#[tokio::test]
async fn rules_that_are_not_understood_close_the_route() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let token = issuer.token(&json!({}));
    let gateway = issuer.gateway(&[], &json!({ "mode": "none" }), &stub);
    assert_eq!(gateway.get("/test").await.status, 200);
    for auth in [json!({ "mode": "step-up" }), json!({ "rules": [{ "claims": {}, "mode": "none" }] }), json!("none")] {
        gateway.apply(vec![guarded(&auth, &stub)]).await;
        assert_eq!(gateway.get("/test").await.problem(), (503, "about:blank".to_owned()), "{auth}");
        assert_eq!(gateway.send_with(Method::GET, "/test", &token).await.status, 503, "{auth}");
    }
    gateway.apply(vec![guarded(&json!({}), &stub)]).await;
    assert_eq!(gateway.get("/test").await.status, 401);
    assert_eq!((gateway.send_with(Method::GET, "/test", &token).await.status.as_u16(), stub.requests()), (200, 2));
}

#[tokio::test]
async fn preflights_need_no_token_and_refusals_have_cors_headers() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&["--cors-origins=https://shop.example"], &json!({}), &stub);
    let mut preflight = request(Method::OPTIONS, "/test", "");
    for (name, value) in [("origin", "https://shop.example"), ("access-control-request-method", "GET")] {
        preflight.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    assert_eq!(gateway.send(preflight).await.status, 204);
    let mut refused = request(Method::GET, "/test", "");
    refused.headers_mut().insert("origin", HeaderValue::from_static("https://shop.example"));
    let refused = gateway.send(refused).await;
    let origin = refused.header("access-control-allow-origin");
    assert_eq!((refused.status.as_u16(), origin), (401, Some("https://shop.example")));
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn a_flood_of_bad_tokens_meets_the_limit_by_address() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&["--rate-limit=2/h"], &json!({}), &stub);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(gateway.send_with(Method::GET, "/test", "bad").await.status.as_u16());
    }
    assert_eq!(statuses, [401, 401, 429]);
}

#[tokio::test]
async fn a_subject_has_one_quota_for_all_of_its_tokens() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let auth = json!({ "rules": [{ "paths": ["/test/public"], "mode": "optional" }] });
    let gateway = issuer.gateway(&["--rate-limit=100/h", "--subject-rate-limit=2/h"], &auth, &stub);
    let token = |subject: &str, number: usize| issuer.token(&json!({ "sub": subject, "jti": number.to_string() }));
    let mut responses = Vec::new();
    for (subject, number) in [("ada", 1), ("ada", 2), ("ada", 3), ("bob", 1)] {
        responses.push(gateway.send_with(Method::GET, "/test", &token(subject, number)).await);
    }
    let statuses: Vec<_> = responses.iter().map(|response| response.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 429, 200]);
    let limits = responses[2].headers.get_all("ratelimit").iter();
    let limits: Vec<_> = limits.map(|value| value.to_str().expect("text").split(';').next().expect("a name")).collect();
    assert_eq!(limits, ["\"client\"", "\"subject\""]);
    assert_eq!(responses[2].problem().1, "rate-limited");
    assert!(responses[2].header("retry-after").is_some());
    for _ in 0..3 {
        assert_eq!(gateway.get("/test/public").await.status, 200, "anonymous requests have no subject");
    }
}

#[tokio::test]
async fn refused_requests_do_not_use_up_the_quota_of_their_subject() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let auth = json!({ "rules": [{ "methods": ["PUT"], "scopes": ["test:write"] }] });
    let gateway = issuer.gateway(&["--subject-rate-limit=1/h"], &auth, &stub);
    let token = issuer.token(&json!({}));
    let mut statuses = Vec::new();
    for method in [Method::PUT, Method::PUT, Method::GET, Method::GET, Method::PUT] {
        statuses.push(gateway.send_with(method, "/test", &token).await.status.as_u16());
    }
    assert_eq!(statuses, [403, 403, 200, 429, 403]);
}
