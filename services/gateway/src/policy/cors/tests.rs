use clap::Parser;
use http::Request;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    cors: CorsArgs,
}

fn cors(arguments: &[&str]) -> anyhow::Result<Option<Cors>> {
    Cors::new(&Cli::try_parse_from([&["test"], arguments].concat())?.cors)
}

fn enabled(arguments: &[&str]) -> Cors {
    cors(arguments).expect("valid").expect("CORS enabled")
}

/// The response headers for a request from an origin, if the service sets CORS headers too.
fn response_headers(cors: &Cors, origin: Option<&str>) -> HeaderMap {
    let mut request = HeaderMap::new();
    if let Some(origin) = origin {
        request.insert(header::ORIGIN, origin.parse().expect("a value"));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://service.example"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    cors.apply(&cors.allowed_origin(&request), &mut headers);
    headers
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.to_str().expect("text")).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

#[test]
fn cors_is_off_without_origins() {
    assert!(cors(&[]).expect("valid").is_none());
    assert!(cors(&["--cors-max-age", "5s"]).expect("valid").is_none());
}

#[test]
fn only_pages_of_allowed_origins_may_read_responses() {
    let cors = enabled(&["--cors-origins", "https://shop.example,http://LOCALHOST:3000,https://b.example:443"]);
    let cases = [
        (Some("https://shop.example"), true),
        (Some("http://localhost:3000"), true),
        (Some("https://b.example"), true),
        (Some("http://shop.example"), false),
        (Some("https://shop.example:8443"), false),
        (Some("https://shop.example.evil.example"), false),
        (Some("https://evilshop.example"), false),
        (Some("null"), false),
        (Some("*"), false),
        (None, false),
    ];
    for (origin, allowed) in cases {
        let headers = response_headers(&cors, origin);
        let expected = origin.filter(|_| allowed).map(str::to_owned);
        assert_eq!(text(&headers, header::ACCESS_CONTROL_ALLOW_ORIGIN), expected, "{origin:?}");
        assert_eq!(headers.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS), allowed, "{origin:?}");
        assert_eq!(text(&headers, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None, "{origin:?}");
        assert_eq!(text(&headers, header::VARY), Some("accept, origin".to_owned()), "{origin:?}");
    }
}

#[test]
fn with_any_origin_allowed_all_responses_are_the_same() {
    let cors = enabled(&["--cors-origins", "*"]);
    for origin in [Some("https://shop.example"), None] {
        let headers = response_headers(&cors, origin);
        assert_eq!(text(&headers, header::ACCESS_CONTROL_ALLOW_ORIGIN), Some("*".to_owned()));
        assert_eq!(text(&headers, header::VARY), Some("accept".to_owned()));
    }
}

#[test]
fn credentials_need_an_explicit_list_of_origins() {
    let with_credentials = enabled(&["--cors-origins", "https://shop.example", "--cors-credentials", "true"]);
    let allowed = response_headers(&with_credentials, Some("https://shop.example"));
    assert_eq!(text(&allowed, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), Some("true".to_owned()));
    let refused = response_headers(&with_credentials, Some("https://evil.example"));
    assert_eq!(text(&refused, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
    assert!(cors(&["--cors-origins", "*", "--cors-credentials", "true"]).is_err());
    assert!(cors(&["--cors-origins", "*,https://shop.example"]).is_err());
}

#[test]
fn malformed_origins_are_refused() {
    for bad in
        ["null", "shop.example", "https://shop.example/", "https://shop.example/a", "https://a@b", "", "https://"]
    {
        assert!(bad.parse::<Origin>().is_err(), "{bad}");
    }
}

#[test]
fn only_preflights_get_a_response_from_the_gateway() {
    let cors = enabled(&["--cors-origins", "https://shop.example", "--cors-max-age", "90s"]);
    let request = |method: Method, lines: &[(&str, &str)]| {
        let mut request = Request::builder().method(method);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        cors.preflight(&request.body(()).expect("a request").into_parts().0)
    };
    let preflight = [("origin", "https://shop.example"), ("access-control-request-method", "PUT")];
    let response = request(Method::OPTIONS, &preflight).expect("a response");
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    let headers = response.headers();
    let methods = "GET, HEAD, POST, PUT, PATCH, DELETE".to_owned();
    assert_eq!(text(headers, header::ACCESS_CONTROL_ALLOW_METHODS), Some(methods));
    assert!(text(headers, header::ACCESS_CONTROL_ALLOW_HEADERS).is_some_and(|names| names.contains("idempotency-key")));
    assert_eq!(text(headers, header::ACCESS_CONTROL_MAX_AGE), Some("90".to_owned()));

    let refused = request(Method::OPTIONS, &[("origin", "https://evil.example"), preflight[1]]).expect("a response");
    assert_eq!((refused.status(), refused.headers().len()), (StatusCode::NO_CONTENT, 0));

    assert!(request(Method::OPTIONS, &preflight[..1]).is_none());
    assert!(request(Method::OPTIONS, &preflight[1..]).is_none());
    assert!(request(Method::GET, &preflight).is_none());
}
