//! Refusals as in RFC 6750, over HTTP, gRPC and for WebSocket.

use http::header::WWW_AUTHENTICATE;
use test_support::raw::Raw;

use super::{
    super::grpc::{call, send_call, status, with_grpc},
    *,
};

#[tokio::test]
async fn refusals_are_those_of_rfc_6750() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&[], &json!({ "scopes": ["test:read", "test:write"] }), &stub);
    let bearer = |changes: Value| vec![format!("Bearer {}", issuer.token(&changes))];
    let invalid = "Bearer error=\"invalid_token\"";
    let both = "test:read test:write";
    for (credentials, status, kind, challenge, reason) in [
        (vec![], 401, "about:blank", "Bearer", None),
        (vec!["Basic YTpi".to_owned()], 401, "about:blank", "Bearer", None),
        (vec!["Bearer".to_owned()], 401, "invalid-token", invalid, Some("malformed")),
        (vec!["Bearer x.y.z".to_owned()], 401, "invalid-token", invalid, Some("malformed")),
        (vec![format!("Bearer {}", "x".repeat(10_000))], 401, "invalid-token", invalid, Some("too-large")),
        (bearer(json!({ "exp": 1 })), 401, "invalid-token", invalid, Some("expired")),
        (bearer(json!({ "exp": null })), 401, "invalid-token", invalid, Some("invalid-claims")),
        (bearer(json!({ "nbf": 9_999_999_999_u64 })), 401, "invalid-token", invalid, Some("not-yet-valid")),
        (bearer(json!({ "aud": "other" })), 401, "invalid-token", invalid, Some("wrong-audience")),
        (bearer(json!({ "iss": "https://x.example" })), 401, "invalid-token", invalid, Some("unknown-issuer")),
        (
            bearer(json!({})),
            403,
            "insufficient-scope",
            "Bearer error=\"insufficient_scope\", scope=\"test:read test:write\"",
            None,
        ),
        (
            [bearer(json!({ "scope": both })), bearer(json!({ "scope": both }))].concat(),
            400,
            "about:blank",
            "Bearer error=\"invalid_request\"",
            None,
        ),
    ] {
        let credentials: Vec<_> = credentials.iter().map(String::as_str).collect();
        let response = gateway.send(with_credentials(Method::GET, "/test/1", &credentials)).await;
        assert_eq!(response.problem(), (status, kind.to_owned()), "{credentials:?}");
        let challenges: Vec<_> = response.headers.get_all(WWW_AUTHENTICATE).iter().collect();
        assert_eq!(challenges, [challenge], "{credentials:?}");
        let problem: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(problem["reason"].as_str(), reason, "{credentials:?}");
        for credential in &credentials {
            let secret = credential.split_once(' ').map_or("-", |(_, secret)| secret);
            assert!(secret.len() < 4 || !response.text().contains(secret), "{credential} is in {response:?}");
        }
    }
    assert_eq!(stub.requests(), 0);
    let accepted = gateway.send_with(Method::GET, "/test/1", &issuer.token(&json!({ "scope": both }))).await;
    assert_eq!((accepted.status.as_u16(), stub.requests()), (200, 1));
    let log = gateway.log(13).await;
    let denials: Vec<_> = log.iter().filter_map(|line| line["denial"].as_str()).collect();
    assert_eq!(denials.len(), 12, "{log:?}");
    assert!(denials.contains(&"the request needs a token") && denials.contains(&"the token is invalid: expired"));
    assert!(log.iter().any(|line| line["subject"] == "ada" && line["status"] == 200));
    assert!(!format!("{log:?}").contains("eyJ"), "a token is in {log:?}");
}

#[tokio::test]
async fn a_refusal_is_sent_letter_by_letter() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&["--security-headers=false"], &json!({}), &stub);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("GET /test HTTP/1.1\r\nhost: a\r\nx-request-id: 1\r\n\r\n").await.expect("sent");
    let response = raw.response().await.expect("a response");
    let mut lines: Vec<_> = response.head.lines().filter(|line| !line.starts_with("date: ")).collect();
    lines.sort_unstable();
    let length = format!("content-length: {}", response.body.len());
    let expected = [
        "",
        "HTTP/1.1 401 Unauthorized",
        &length,
        "content-type: application/problem+json",
        "www-authenticate: Bearer",
        "x-request-id: 1",
    ];
    assert_eq!(lines, expected);
    let body = r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"the request needs a token"}"#;
    assert_eq!(response.body, body);
}

#[tokio::test]
async fn while_no_keys_were_ever_loaded_tokens_get_503() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let token = issuer.token(&json!({}));
    let broken = Stub::text("no keys").await;
    let issuer = Issuer { keys: broken, ..issuer };
    let gateway = issuer.gateway(&[], &json!({ "mode": "optional" }), &stub);
    let response = gateway.send_with(Method::GET, "/test", &token).await;
    assert_eq!(response.problem(), (503, "about:blank".to_owned()));
    assert_eq!((response.header("retry-after"), stub.requests()), (Some("1"), 0));
    assert_eq!(gateway.get("/test").await.status, 200, "an anonymous request needs no keys");
}

#[tokio::test]
async fn grpc_gets_the_status_of_each_refusal() {
    let (issuer, stub) = (Issuer::start().await, super::super::grpc::echo().await);
    let services = |auth: Value| {
        let access = Arc::new(Access::new(Some(&auth)));
        let services = with_grpc(&[stub.address], Some(vec![stub.address]));
        services.into_iter().map(|service| Service { access: access.clone(), ..service }).collect::<Vec<_>>()
    };
    let rules = json!([{ "paths": ["/test.v1.Test/Echo"], "scopes": ["test:write"] }]);
    let gateway = TestGateway::of(&[&issuer.flag()], services(json!({ "rules": rules })));
    let with = |token: Option<String>| {
        let mut request = call("hello");
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a value");
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        request
    };
    for (token, expected) in [
        (None, "UNAUTHENTICATED"),
        (Some(issuer.token(&json!({ "exp": 1 }))), "UNAUTHENTICATED"),
        (Some(issuer.token(&json!({}))), "PERMISSION_DENIED"),
        (Some(issuer.token(&json!({ "scope": "test:write" }))), "OK"),
    ] {
        let response = send_call(&gateway, with(token)).await;
        assert_eq!((response.status.as_u16(), status(&response)), (200, Some(expected)), "{response:?}");
    }
    gateway.apply(services(json!({ "rules": [{ "claims": {} }] }))).await;
    let token = issuer.token(&json!({ "scope": "test:write" }));
    assert_eq!(status(&send_call(&gateway, with(Some(token))).await), Some("UNAVAILABLE"), "the route is closed");
}

#[tokio::test]
async fn a_grpc_call_with_two_tokens_is_invalid() {
    let (issuer, stub) = (Issuer::start().await, super::super::grpc::echo().await);
    let gateway = TestGateway::of(&[&issuer.flag()], with_grpc(&[stub.address], Some(vec![stub.address])));
    let mut request = call("hello");
    for _ in 0..2 {
        let value = HeaderValue::from_str(&format!("Bearer {}", issuer.token(&json!({})))).expect("a value");
        request.headers_mut().append(header::AUTHORIZATION, value);
    }
    assert_eq!(status(&send_call(&gateway, request).await), Some("INVALID_ARGUMENT"));
    assert_eq!(stub.requests(), 0);
}

/// Clients of gRPC-Web turn the status of HTTP into one of gRPC, such as `UNAUTHENTICATED`.
#[tokio::test]
async fn grpc_web_gets_the_status_of_http() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&[], &json!({ "scopes": ["test:write"] }), &stub);
    let expired = issuer.token(&json!({ "exp": 1 }));
    for (token, status) in [(String::new(), 401), (expired, 401), (issuer.token(&json!({})), 403)] {
        let credentials = format!("Bearer {token}");
        let credentials: &[&str] = if token.is_empty() { &[] } else { &[&credentials] };
        let mut request = with_credentials(Method::POST, "/test/test.v1.Test/Echo", credentials);
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc-web+proto"));
        assert_eq!(gateway.send(request).await.problem().0, status);
    }
    assert_eq!(stub.requests(), 0);
}

#[tokio::test]
async fn a_token_of_a_megabyte_is_refused_at_once() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&[], &json!({ "mode": "optional" }), &stub);
    let token = "x".repeat(1024 * 1024);
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    // The gateway responds, and may close the connection, before it has read all of it.
    let _ = raw.send(format!("GET /test HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n")).await;
    if let Ok(response) = raw.response().await {
        assert_eq!(response.status, 431, "{}", response.head);
    }
    assert_eq!((gateway.get("/test").await.status.as_u16(), stub.requests()), (200, 1));
}

#[tokio::test]
async fn refusals_are_counted_by_outcome() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let auth = json!({ "scopes": ["test:write"], "forward": "headers", "rules": [
        { "paths": ["/test/read"], "scopes": ["test:read"] },
    ]});
    let gateway = issuer.gateway(&[], &auth, &stub);
    let token = issuer.token(&json!({}));
    let bearer = format!("Bearer {token}");
    for (path, credentials, status) in [
        ("/test", vec![], 401),
        ("/test", vec!["Bearer x"], 401),
        ("/test", vec![&*bearer], 403),
        ("/test", vec![&bearer, &bearer], 400),
        ("/test//read", vec![&bearer], 400),
        ("/test/read", vec![&bearer], 200),
    ] {
        let response = gateway.send(with_credentials(Method::GET, path, &credentials)).await;
        assert_eq!(response.status, status, "{path}");
    }
    let spaced = issuer.token(&json!({ "sub": "ada lovelace" }));
    assert_eq!(gateway.send_with(Method::GET, "/test/read", &spaced).await.status, 403);
    gateway.apply(vec![guarded(&json!({ "mode": "step-up" }), &stub)]).await;
    assert_eq!(gateway.get("/test").await.status, 503);
    for outcome in [
        "no-token",
        "invalid-token",
        "insufficient-scope",
        "several-tokens",
        "ambiguous-path",
        "unnameable-caller",
        "route-closed",
    ] {
        assert_eq!(gateway.metric(&format!("gateway_denials_total{{outcome=\"{outcome}\"}}")), 1, "{outcome}");
    }
    let log = gateway.log(8).await;
    let forbidden = log.iter().find(|line| line["denial"].as_str().is_some_and(|denial| denial.contains("scopes")));
    assert_eq!(forbidden.expect("a line")["subject"], "ada", "it is known who was refused");
}

#[tokio::test]
async fn an_upgrade_to_websocket_needs_a_token_too() {
    let issuer = Issuer::start().await;
    let stub = Stub::raw(async |mut stream, _| {
        if super::super::stub::read_head(&mut stream).await.is_some() {
            let response = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, response.as_bytes()).await;
        }
    })
    .await;
    let gateway = issuer.gateway(&[], &json!({}), &stub);
    let token = issuer.token(&json!({}));
    for (authorization, status) in [
        (String::new(), 401),
        ("authorization: Bearer x\r\n".to_owned(), 401),
        (format!("authorization: Bearer {token}\r\n"), 101),
    ] {
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        let head = "GET /test HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
        raw.send(format!("{head}{authorization}\r\n")).await.expect("sent");
        assert_eq!(raw.response().await.expect("a response").status, status);
    }
    assert_eq!(stub.connections(), 1);
}
