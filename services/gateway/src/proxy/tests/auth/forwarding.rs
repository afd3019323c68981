//! What a service learns of the caller, and that no client can tell it anything else.

use test_support::raw::Raw;

use super::*;

/// Every way to write a header that says who somebody is.
const FORGED: &[&str] = &[
    "x-hedgerow-subject",
    "X-Hedgerow-Subject",
    "x_hedgerow_subject",
    "X-HEDGEROW_SUBJECT",
    "x.hedgerow.subject",
    "x-hedgerow~subject",
    "x-hedgerow-scope",
    "x_hedgerow-scope",
    "x-hedgerow-client",
    "x-hedgerow_client",
    "x-hedgerow-issuer",
    "x-hedgerow-anything",
    "hedgerow-on-behalf-of",
    "Hedgerow_On_Behalf_Of",
    "hedgerow-on_behalf-of",
    "x-user-id",
    "x_remote_user",
    "x-forwarded-user",
    "remote-user",
];

/// The lines that a service got and that say who the caller is.
fn identity(text: &str) -> Vec<&str> {
    let is_identity = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        name.contains("hedgerow") || name.contains("user") || name == "authorization"
    };
    let mut lines: Vec<_> = text.lines().filter(is_identity).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn no_spelling_of_an_identity_header_reaches_a_service() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let token = issuer.token(&json!({}));
    let own = [
        "x-hedgerow-client: web",
        "x-hedgerow-issuer: https://issuer.example",
        "x-hedgerow-scope: test:read",
        "x-hedgerow-subject: ada",
    ];
    let authorization = format!("authorization: Bearer {token}");
    for (auth, with_token, expected) in [
        (json!({ "forward": "headers" }), true, own.to_vec()),
        (json!({ "mode": "optional", "forward": "headers" }), true, own.to_vec()),
        (json!({ "mode": "optional", "forward": "headers" }), false, vec![]),
        (json!({ "mode": "none", "forward": "headers" }), false, vec![]),
        (json!({}), true, vec![&*authorization]),
        (json!({ "mode": "optional" }), false, vec![]),
        (json!({ "mode": "none" }), false, vec![]),
    ] {
        let gateway = issuer.gateway(&[], &auth, &stub);
        let credentials = if with_token { format!("{authorization}\r\n") } else { String::new() };
        let forged: Vec<_> = FORGED.iter().map(|name| format!("{name}: eve\r\n{name}: eve2\r\n")).collect();
        let forged = forged.concat();
        // A client that names a header here tries to have it removed after the gateway has set it.
        let connection = "connection: close, x-hedgerow-subject, authorization, x-hedgerow-scope\r\n";
        let mut raw = Raw::connect(gateway.address).await.expect("a connection");
        let head = format!("GET /test HTTP/1.1\r\nhost: a\r\n{forged}{credentials}{connection}\r\n");
        raw.send(head).await.expect("sent");
        let response = raw.response().await.expect("a response");
        assert_eq!(response.status, 200, "{auth}: {}", response.body);
        assert_eq!(identity(&response.body), expected, "HTTP/1, {auth}");

        let mut request = Request::get("http://a/test").body(Full::default()).expect("a request");
        for name in FORGED {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().append(name, HeaderValue::from_static("eve"));
        }
        if with_token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a value");
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let response = http_2(gateway.address).await.send_request(request).await.expect("a response");
        let response = TestResponse::read(response).await.expect("a complete response");
        assert_eq!(identity(response.text()), expected, "HTTP/2, {auth}");
    }
}

#[tokio::test]
async fn credentials_that_are_not_looked_at_pass_unchanged() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    for (auth, expected) in [
        (json!({ "mode": "none" }), vec!["authorization: Basic YTpi"]),
        (json!({ "mode": "none", "forward": "headers" }), vec!["authorization: Basic YTpi"]),
        (json!({ "mode": "optional" }), vec!["authorization: Basic YTpi"]),
        (json!({ "mode": "optional", "forward": "headers" }), vec![]),
    ] {
        let gateway = issuer.gateway(&[], &auth, &stub);
        let response = gateway.send(with_credentials(Method::GET, "/test", &["Basic YTpi"])).await;
        assert_eq!((response.status.as_u16(), identity(response.text())), (200, expected), "{auth}");
    }
    let gateway = issuer.gateway(&[], &json!({ "mode": "none" }), &stub);
    let response = gateway.send(with_credentials(Method::GET, "/test", &["Basic YTpi", "Basic YTpj"])).await;
    assert_eq!(response.status, 400, "two services could each believe another one");
}

#[tokio::test]
async fn a_subject_that_a_header_cannot_hold_is_refused() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&[], &json!({ "forward": "headers" }), &stub);
    for subject in ["ada ", " ada", "ada lovelace", "ad\u{e9}"] {
        let response = gateway.send_with(Method::GET, "/test", &issuer.token(&json!({ "sub": subject }))).await;
        assert_eq!(response.status, 403, "{subject}");
    }
    assert_eq!(stub.requests(), 0);
    let token = issuer.token(&json!({ "client_id": null, "scope": null }));
    let response = gateway.send_with(Method::GET, "/test", &token).await;
    assert_eq!(identity(response.text()), ["x-hedgerow-issuer: https://issuer.example", "x-hedgerow-subject: ada"]);
}
