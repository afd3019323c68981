use proptest::prelude::*;

use super::{
    known::{IDENTITY, IDENTITY_PREFIXES},
    *,
};

fn names(dropped: &[&str], kept: &[&str]) -> Names {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a pattern")).collect();
    Names::new(&NamesArgs { drop_headers: patterns(dropped), keep_headers: patterns(kept) })
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
    }
    headers
}

/// The names of what is left of these headers, sorted.
fn left(names: &Names, lines: &[(&str, &str)]) -> Vec<String> {
    let mut headers = headers(lines);
    names.strip_request(&mut headers);
    let mut left: Vec<_> = headers.keys().map(ToString::to_string).collect();
    left.sort();
    left
}

fn passes(name: &str) -> bool {
    !left(&names(&[], &[]), &[(name, "x")]).is_empty()
}

#[test]
fn every_listed_name_ends_here() {
    for name in HOP_BY_HOP.iter().chain(IDENTITY) {
        assert!(!passes(name), "{name}");
    }
    for prefix in IDENTITY_PREFIXES {
        assert!(!passes(prefix) && !passes(&format!("{prefix}a")) && !passes(&format!("{prefix}z-x")), "{prefix}");
    }
}

#[test]
fn what_belongs_to_the_connection_or_tells_who_the_client_is_ends_here() {
    for name in [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "TE",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-User",
        "X-Forwarded-Client-Cert",
        "X-Real-IP",
        "X-User",
        "X-User-Id",
        "X-Auth-Request-User",
        "X-Authenticated-User",
        "X-Client-Cert",
        "X-Client-Certificate",
        "X-Remote-User",
        "Remote-User",
        "X-SSL-Client-Verify",
        "SSL-Client-Cert",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Envoy-External-Address",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Proxy",
        "Proxy-Client-IP",
        "WL-Proxy-Client-IP",
        "Front-End-Https",
        "X-Originating-IP",
    ] {
        assert!(!passes(name), "{name}");
    }
}

#[test]
fn what_is_for_the_service_passes() {
    for name in [
        "Host",
        "Accept",
        "Accept-Encoding",
        "Authorization",
        "Content-Type",
        "Content-Length",
        "Cookie",
        "Idempotency-Key",
        "If-Match",
        "Range",
        "Referer",
        "Traceparent",
        "User-Agent",
        "X-Request-Id",
        "X-Requested-With",
        "X-Auth-Token",
        "X-Auth-Key",
        "X-User-Agent",
        "X-Api-Key",
        "api_key",
        "X-Csrf-Token",
        "X-Usage",
        "Sec-WebSocket-Key",
        "Grpc-Timeout",
        "X-Amzn-Trace-Id",
        "CF-Ray",
    ] {
        assert!(passes(name), "{name}");
    }
}

#[test]
fn names_that_a_service_may_take_for_others_end_here() {
    for name in [
        "x_forwarded_for",
        "X_Forwarded-For",
        "x-forwarded_for",
        "x.forwarded.for",
        "x_user_id",
        "transfer_encoding",
        "content_length",
        "content_type",
        "keep_alive",
        "x_request_id",
        "idempotency_key",
        "if_match",
        "user_agent",
        "x~real|ip",
        "http_client_ip",
        "wl_proxy_client_ip",
    ] {
        assert!(!passes(name), "{name}");
    }
}

#[test]
fn flags_add_names_and_take_some_off() {
    let names = names(&["X_Tenant", "x-team-*"], &["x-forwarded-user", "x_auth_request_*"]);
    let lines = [
        ("x-tenant", "1"),
        ("x_tenant", "1"),
        ("x-tenants", "1"),
        ("x-team-lead", "1"),
        ("x-teams", "1"),
        ("x-forwarded-user", "1"),
        ("x-forwarded-email", "1"),
        ("x-auth-request-user", "1"),
        ("x-auth-user", "1"),
    ];
    assert_eq!(left(&names, &lines), ["x-auth-request-user", "x-forwarded-user", "x-teams", "x-tenants"]);
    for bad in [
        "",
        "*",
        "a b",
        "x-*-y",
        "host",
        "ho*",
        "x-re*",
        "content-*",
        "content*",
        "if*",
        "Connection",
        "content-length",
    ] {
        assert!(bad.parse::<Pattern>().is_err(), "{bad}");
    }
}

#[test]
fn a_connection_header_has_removed_what_it_names_but_nothing_for_the_far_end() {
    let lines = [
        ("connection", "x-hop, x-request-id,authorization"),
        ("connection", "content-length , host, close, , @, if-match, X-Other"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("x-mine", "1"),
        ("x-request-id", "1"),
        ("authorization", "1"),
        ("content-length", "1"),
        ("host", "1"),
        ("if-match", "1"),
    ];
    let expected = ["authorization", "content-length", "host", "if-match", "x-mine", "x-request-id"];
    assert_eq!(left(&names(&[], &[]), &lines), expected);
}

#[test]
fn an_answer_loses_what_belongs_to_the_connection_and_names_no_software() {
    let mut answer = headers(&[
        ("connection", "close, x-hop"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("proxy-authenticate", "Basic"),
        ("server", "uvicorn"),
        ("x-powered-by", "Express"),
        ("x-hop", "1"),
        ("etag", "\"1\""),
        ("x-user-id", "1"),
        ("trailer", "grpc-status"),
    ]);
    strip_answer(StatusCode::OK, &mut answer);
    assert_eq!(answer, headers(&[("etag", "\"1\""), ("x-user-id", "1"), ("trailer", "grpc-status")]));
}

#[test]
fn an_upgrade_keeps_what_it_needs() {
    let lines = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")];
    let mut answer = headers(&lines);
    strip_answer(StatusCode::SWITCHING_PROTOCOLS, &mut answer);
    assert_eq!(answer.len(), 3);
    assert_eq!(answer.get(header::CONNECTION), Some(&HeaderValue::from_static("upgrade")));
    strip_answer(StatusCode::OK, &mut answer);
    assert_eq!(answer, headers(&lines[2..]));
}

proptest! {
    #[test]
    fn whatever_a_connection_header_says_the_rest_of_the_request_is_the_same(
        options in proptest::collection::vec("[a-z_-]{1,16}|host|content-length|x-request-id|authorization|cookie|x-a", 0..6),
        custom in proptest::collection::vec("x-[a-c]", 0..4),
    ) {
        let line = options.join(",");
        let mut lines = vec![("connection", line.as_str()), ("host", "h"), ("content-length", "1"), ("cookie", "c")];
        lines.extend([("x-request-id", "i"), ("authorization", "a")]);
        lines.extend(custom.iter().map(|name| (name.as_str(), "1")));
        let mut expected: Vec<String> = custom.iter().filter(|name| !options.contains(name)).cloned().collect();
        expected.extend(["host", "content-length", "cookie", "x-request-id", "authorization"].map(str::to_owned));
        expected.sort();
        expected.dedup();
        prop_assert_eq!(left(&names(&[], &[]), &lines), expected);
    }

    #[test]
    fn what_reads_like_a_protected_name_never_passes(
        name in proptest::sample::select([IDENTITY, HOP_BY_HOP, &["x-forwarded-for", "x-user-id", "x-real-ip"]].concat()),
        marks in proptest::collection::vec("[_.!~-]", 6),
        upper in any::<bool>(),
    ) {
        let mut marks = marks.iter();
        let spelt: String =
            name.chars().map(|c| if c == '-' { marks.next().map_or('-', |mark| mark.chars().next().unwrap_or('-')) } else { c }).collect();
        let spelt = if upper { spelt.to_uppercase() } else { spelt };
        prop_assert!(!passes(&spelt), "{}", spelt);
    }
}
