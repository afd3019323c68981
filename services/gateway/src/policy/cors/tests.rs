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

fn on(arguments: &[&str]) -> Cors {
    cors(arguments).expect("valid").expect("on")
}

/// An answer's headers as a page of an origin gets them, of a service that has an opinion of its own.
fn answer(cors: &Cors, origin: Option<&str>) -> HeaderMap {
    let mut request = HeaderMap::new();
    if let Some(origin) = origin {
        request.insert(header::ORIGIN, origin.parse().expect("a value"));
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://service.example"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    cors.apply(&cors.see(&request), &mut headers);
    headers
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().map(|line| line.to_str().expect("text")).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

#[test]
fn without_origins_there_is_none() {
    assert!(cors(&[]).expect("valid").is_none());
    assert!(cors(&["--cors-max-age", "5s"]).expect("valid").is_none());
}

#[test]
fn only_pages_of_allowed_origins_may_read() {
    let cors = on(&["--cors-origins", "https://shop.example,http://LOCALHOST:3000,https://b.example:443"]);
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
        let headers = answer(&cors, origin);
        let expected = origin.filter(|_| allowed).map(str::to_owned);
        assert_eq!(text(&headers, header::ACCESS_CONTROL_ALLOW_ORIGIN), expected, "{origin:?}");
        assert_eq!(headers.contains_key(header::ACCESS_CONTROL_EXPOSE_HEADERS), allowed, "{origin:?}");
        assert_eq!(text(&headers, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None, "{origin:?}");
        assert_eq!(text(&headers, header::VARY), Some("accept, origin".to_owned()), "{origin:?}");
    }
}

#[test]
fn any_origin_is_the_same_answer_for_all() {
    let cors = on(&["--cors-origins", "*"]);
    for origin in [Some("https://shop.example"), None] {
        let headers = answer(&cors, origin);
        assert_eq!(text(&headers, header::ACCESS_CONTROL_ALLOW_ORIGIN), Some("*".to_owned()));
        assert_eq!(text(&headers, header::VARY), Some("accept".to_owned()));
    }
}

#[test]
fn credentials_are_allowed_to_named_origins_alone() {
    let cors_with = on(&["--cors-origins", "https://shop.example", "--cors-credentials", "true"]);
    let allowed = answer(&cors_with, Some("https://shop.example"));
    assert_eq!(text(&allowed, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), Some("true".to_owned()));
    let refused = answer(&cors_with, Some("https://evil.example"));
    assert_eq!(text(&refused, header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
    assert!(cors(&["--cors-origins", "*", "--cors-credentials", "true"]).is_err());
    assert!(cors(&["--cors-origins", "*,https://shop.example"]).is_err());
}

#[test]
fn what_browsers_send_as_no_origin_is_none() {
    for bad in
        ["null", "shop.example", "https://shop.example/", "https://shop.example/a", "https://a@b", "", "https://"]
    {
        assert!(bad.parse::<Origin>().is_err(), "{bad}");
    }
}

#[test]
fn a_preflight_is_answered_and_other_requests_are_not() {
    let cors = on(&["--cors-origins", "https://shop.example", "--cors-max-age", "90s"]);
    let request = |method: Method, lines: &[(&str, &str)]| {
        let mut request = Request::builder().method(method);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        cors.preflight(&request.body(()).expect("a request").into_parts().0)
    };
    let asked = [("origin", "https://shop.example"), ("access-control-request-method", "PUT")];
    let answer = request(Method::OPTIONS, &asked).expect("an answer");
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let headers = answer.headers();
    let methods = "GET, HEAD, POST, PUT, PATCH, DELETE".to_owned();
    assert_eq!(text(headers, header::ACCESS_CONTROL_ALLOW_METHODS), Some(methods));
    assert!(text(headers, header::ACCESS_CONTROL_ALLOW_HEADERS).is_some_and(|names| names.contains("idempotency-key")));
    assert_eq!(text(headers, header::ACCESS_CONTROL_MAX_AGE), Some("90".to_owned()));

    let refused = request(Method::OPTIONS, &[("origin", "https://evil.example"), asked[1]]).expect("an answer");
    assert_eq!((refused.status(), refused.headers().len()), (StatusCode::NO_CONTENT, 0));

    assert!(request(Method::OPTIONS, &asked[..1]).is_none());
    assert!(request(Method::OPTIONS, &asked[1..]).is_none());
    assert!(request(Method::GET, &asked).is_none());
}
