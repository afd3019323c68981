//! Tricks with paths and methods, by which a service could see another request than the rules did.

use test_support::raw::Raw;

use super::*;

async fn status(gateway: &TestGateway, target: &str) -> u16 {
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await.expect("sent");
    raw.response().await.expect("a response").status
}

#[tokio::test]
async fn no_path_passes_by_a_rule() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let auth = json!({ "mode": "optional", "rules": [{ "paths": ["/test/admin"], "scopes": ["admin"] }] });
    let gateway = issuer.gateway(&[], &auth, &stub);
    for target in ["/test/admin", "/test/admin/", "/test/admin?x", "http://a/test/admin"] {
        assert_eq!(status(&gateway, target).await, 401, "{target}");
    }
    for target in [
        "/test/./admin",
        "/test/x/../admin",
        "/test/x/%2e%2e/admin",
        "/test/x/..;/admin",
        "/test//admin",
        "/test/x//../admin",
        "/test%2fadmin",
        "/test%2Fadmin",
        "/test/x%2F..%2Fadmin",
        "/test%5Cadmin",
        "/test%5cadmin",
        "/test\\admin",
        "/test/;/admin",
        "/test;a=b/admin",
        "/test/admin;a=b",
        "/test/admin%3bx",
        "/test/%61dmin",
        "/test/admi%6E",
        "/test/admin%00",
        "/test/admin%0a",
        "/test/%c0%afadmin",
        "/test/%zz",
        "/test/%",
        "http://a/test//admin",
    ] {
        // What is not below /test is refused by the table of routes, or as a request that is not HTTP.
        assert!(matches!(status(&gateway, target).await, 400 | 404), "{target}");
    }
    assert_eq!(stub.requests(), 0);
    for target in ["/test/a%20b", "/test/caf%C3%A9", "/test/administrator", "/test/x?a=//;%2f"] {
        assert_eq!(status(&gateway, target).await, 200, "{target}");
    }
}

#[tokio::test]
async fn without_rules_for_paths_encoded_characters_are_data() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let gateway = issuer.gateway(&[], &json!({ "mode": "optional", "rules": [{ "methods": ["PUT"] }] }), &stub);
    for target in ["/test//1", "/test/a%2Fb", "/test/a;b=c", "/test/%61"] {
        assert_eq!(status(&gateway, target).await, 200, "{target}");
    }
}

#[tokio::test]
async fn a_method_with_rules_cannot_be_overridden() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let rules = json!([{ "methods": ["POST"], "mode": "required" }]);
    let gateway = issuer.gateway(&[], &json!({ "mode": "optional", "rules": rules }), &stub);
    let overriding = || {
        let mut request = request(Method::GET, "/test", "");
        for name in
            ["x-http-method-override", "x_http_method_override", "x-http-method", "X-Method-Override", "x-http.method"]
        {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request.headers_mut().insert(name, HeaderValue::from_static("POST"));
        }
        request
    };
    let response = gateway.send(overriding()).await;
    assert!(response.status == 200 && !response.text().contains("method"), "{}", response.text());
    gateway.apply(vec![guarded(&json!({ "mode": "optional" }), &stub)]).await;
    let response = gateway.send(overriding()).await;
    assert!(response.text().contains("x-http-method-override: POST"), "{}", response.text());
}
