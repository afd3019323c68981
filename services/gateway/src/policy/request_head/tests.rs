use clap::Parser;
use http::Request;
use proptest::prelude::*;

use super::*;
use crate::{
    auth::Grant,
    policy::{Policy, PolicyArgs},
};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    policy: PolicyArgs,
}

type Lines<'a> = &'a [(&'a str, &'a str)];

fn policy(arguments: &[&str]) -> Policy {
    let cli = Cli::try_parse_from([&["test"], arguments].concat()).expect("arguments");
    Policy::new(&cli.policy).expect("a policy")
}

fn request(version: Version, uri: &str, lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().version(version).uri(uri);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

/// The headers that the upstream receives for a request of a peer.
fn sent(policy: &Policy, peer: &str, mut parts: Parts) -> Vec<(String, String)> {
    let client = policy.client(peer.parse().expect("an address"), &parts.headers);
    policy.to_upstream(&mut parts, &client, &Grant::default()).expect("valid headers");
    let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
    let mut lines: Vec<_> = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    lines.sort();
    lines
}

fn lines(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn forwarding_headers_describe_the_peer_not_what_it_claims() {
    let given = [
        ("host", "shop.example:8080"),
        ("x-forwarded-for", "198.51.100.66"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=198.51.100.66"),
        ("x-user-id", "admin"),
        ("accept", "*/*"),
    ];
    let expected = [
        ("accept", "*/*"),
        ("forwarded", "for=192.0.2.1;proto=http;host=\"shop.example:8080\""),
        ("host", "shop.example:8080"),
        ("via", "1.1 hedgerow"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "shop.example:8080"),
        ("x-forwarded-port", "8080"),
        ("x-forwarded-proto", "http"),
    ];
    let parts = request(Version::HTTP_11, "/users", &given);
    assert_eq!(sent(&policy(&[]), "192.0.2.1:1000", parts), lines(&expected));
}

#[test]
fn behind_trusted_proxies_the_path_starts_at_the_client() {
    let given = [
        ("host", "gateway.internal"),
        ("x-forwarded-for", "198.51.100.66, 2001:db8::1, 10.0.0.8"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("via", "2.0 edge"),
    ];
    let expected = [
        ("forwarded", "for=\"[2001:db8::1]\";proto=https;host=\"shop.example\", for=10.0.0.8, for=10.0.0.9"),
        ("host", "gateway.internal"),
        ("via", "1.1 hedgerow"),
        ("via", "2.0 edge"),
        ("x-forwarded-for", "2001:db8::1, 10.0.0.8, 10.0.0.9"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-proto", "https"),
    ];
    let parts = request(Version::HTTP_11, "/users", &given);
    assert_eq!(sent(&policy(&["--trusted-hops", "2"]), "10.0.0.9:1000", parts), lines(&expected));
}

#[test]
fn proxies_are_listed_in_order_with_the_reported_port() {
    let given = [
        ("host", "gateway.internal:8080"),
        ("x-forwarded-for", "203.0.113.1, 10.0.0.7, 10.0.0.8"),
        ("x-forwarded-port", "8443"),
    ];
    let parts = request(Version::HTTP_11, "/users", &given);
    let sent = sent(&policy(&["--trusted-hops", "3"]), "10.0.0.9:1000", parts);
    for (name, value) in [
        (
            "forwarded",
            "for=203.0.113.1;proto=http;host=\"gateway.internal:8080\", for=10.0.0.7, for=10.0.0.8, for=10.0.0.9",
        ),
        ("x-forwarded-for", "203.0.113.1, 10.0.0.7, 10.0.0.8, 10.0.0.9"),
        ("x-forwarded-port", "8443"),
    ] {
        assert!(sent.contains(&(name.to_owned(), value.to_owned())), "{sent:?}");
    }
}

#[test]
fn without_a_host_header_the_authority_is_the_host() {
    let parts = request(Version::HTTP_2, "http://shop.example/users", &[]);
    let expected = [
        ("forwarded", "for=\"[2001:db8::1]\";proto=http;host=\"shop.example\""),
        ("via", "2.0 hedgerow"),
        ("x-forwarded-for", "2001:db8::1"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", "80"),
        ("x-forwarded-proto", "http"),
    ];
    assert_eq!(sent(&policy(&[]), "[2001:db8::1]:1000", parts), lines(&expected));
}

#[test]
fn a_host_cannot_inject_into_the_forwarded_header() {
    for host in ["a\";for=\"203.0.113.1", "a\\", ""] {
        let parts = request(Version::HTTP_11, "/", &[("host", host)]);
        let sent = sent(&policy(&[]), "192.0.2.1:1000", parts);
        assert!(sent.contains(&("forwarded".to_owned(), "for=192.0.2.1;proto=http".to_owned())), "{sent:?}");
    }
}

#[test]
fn only_websocket_upgrades_are_forwarded() {
    let cases: &[(Version, Lines, bool)] = &[
        (Version::HTTP_11, &[("connection", "Upgrade"), ("upgrade", "websocket")], true),
        (Version::HTTP_11, &[("connection", "keep-alive, upgrade"), ("upgrade", "WebSocket")], true),
        (Version::HTTP_11, &[("connection", "close"), ("upgrade", "websocket")], false),
        (Version::HTTP_11, &[("upgrade", "websocket")], false),
        (Version::HTTP_11, &[("connection", "upgrade")], false),
        (
            Version::HTTP_11,
            &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "x")],
            false,
        ),
        (Version::HTTP_10, &[("connection", "Upgrade"), ("upgrade", "websocket")], false),
        (Version::HTTP_2, &[("connection", "Upgrade"), ("upgrade", "websocket")], false),
    ];
    for (version, given, expected) in cases {
        let parts = request(*version, "/", given);
        assert_eq!(is_upgrade(&parts), *expected, "{version:?} {given:?}");
        let sent = sent(&policy(&[]), "192.0.2.1:1000", parts);
        let connection: Vec<_> = sent
            .iter()
            .filter(|(name, _)| matches!(name.as_str(), "connection" | "upgrade" | "http2-settings"))
            .cloned()
            .collect();
        let forwarded = lines(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(connection, if *expected { forwarded } else { Vec::new() }, "{version:?} {given:?}");
    }
}

#[test]
fn only_a_get_request_is_an_upgrade() {
    for (method, expected) in [(Method::GET, true), (Method::HEAD, false), (Method::POST, false)] {
        let mut parts = request(Version::HTTP_11, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]);
        parts.method = method;
        assert_eq!(is_upgrade(&parts), expected, "{}", parts.method);
    }
}

#[test]
fn trailers_are_requested_if_the_client_accepts_them() {
    let cases: &[(Lines, Lines)] = &[
        (&[("te", "trailers")], &[("connection", "te"), ("te", "trailers")]),
        (&[("te", "deflate, Trailers"), ("connection", "te")], &[("connection", "te"), ("te", "trailers")]),
        (&[("te", "gzip")], &[]),
    ];
    let passed = |version, given| -> Vec<_> {
        let sent = sent(&policy(&[]), "192.0.2.1:1000", request(version, "/", given));
        sent.into_iter().filter(|(name, _)| matches!(name.as_str(), "connection" | "te")).collect()
    };
    for (given, expected) in cases {
        assert_eq!(passed(Version::HTTP_11, given), lines(expected), "{given:?}");
    }
    let call: Lines = &[("te", "trailers"), ("content-type", "application/grpc+proto")];
    assert_eq!(passed(Version::HTTP_2, call), lines(&[("te", "trailers")]), "gRPC goes over HTTP/2");
    assert_eq!(passed(Version::HTTP_11, call), lines(&[("connection", "te"), ("te", "trailers")]), "it does not");
}

#[test]
fn an_expectation_is_not_forwarded() {
    let parts = request(Version::HTTP_11, "/", &[("expect", "100-continue")]);
    assert!(!sent(&policy(&[]), "192.0.2.1:1000", parts).iter().any(|(name, _)| name == "expect"));
}

#[test]
fn tags_of_compressed_responses_are_restored() {
    let parts = request(Version::HTTP_11, "/", &[("if-match", "\"3--gzip\"")]);
    let sent = sent(&policy(&["--compression", "false"]), "192.0.2.1:1000", parts);
    assert!(sent.contains(&("if-match".to_owned(), "\"3\"".to_owned())), "{sent:?}");
}

/// Splits a Forwarded header into elements of `name=value` pairs, by the grammar of RFC 7239, section 4.
fn parse_forwarded(mut text: &str) -> Option<Vec<Vec<(String, String)>>> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let mut elements = vec![Vec::new()];
    loop {
        let (name, rest) = text.split_once('=')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').filter(|(value, _)| !value.contains('\\'))?,
            None => rest.split_at(rest.find(|c| !is_token(c)).unwrap_or(rest.len())),
        };
        if name.is_empty() || !name.chars().all(is_token) {
            return None;
        }
        elements.last_mut()?.push((name.to_owned(), value.to_owned()));
        text = match rest {
            "" => return Some(elements),
            rest if rest.starts_with(", ") => {
                elements.push(Vec::new());
                &rest[2..]
            }
            rest => rest.strip_prefix(';')?,
        };
    }
}

proptest! {
    #[test]
    fn whatever_the_host_the_forwarded_header_lists_the_path(
        host in proptest::collection::vec(any::<u8>(), 0..24),
        proxies in proptest::collection::vec(any::<std::net::IpAddr>(), 1..4),
        reports_host in any::<bool>(),
    ) {
        let Ok(host) = HeaderValue::from_bytes(&host) else { return Ok(()) };
        let mut parts = request(Version::HTTP_11, "/", &[]);
        parts.headers.insert(if reports_host { FORWARDED_HOST } else { header::HOST }, host);
        let list = proxies.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        parts.headers.insert(FORWARDED_FOR, list.parse().expect("a value"));
        let policy = policy(&["--trusted-hops", &proxies.len().to_string()]);
        let client = policy.client("192.0.2.1:1000".parse().expect("an address"), &parts.headers);
        policy.to_upstream(&mut parts, &client, &Grant::default()).expect("valid headers");

        let forwarded = parts.headers[FORWARDED].to_str().expect("text");
        let elements = parse_forwarded(forwarded);
        let elements = elements.ok_or_else(|| TestCaseError::fail(forwarded.to_owned()))?;
        let node = |element: &Vec<(String, String)>| -> Option<std::net::IpAddr> {
            element.iter().find(|(name, _)| name == "for")?.1.trim_matches(['[', ']']).parse().ok()
        };
        let path: Vec<_> = elements.iter().map(node).collect();
        let peer = "192.0.2.1".parse().expect("an address");
        let expected: Vec<_> = proxies.iter().map(|proxy| Some(proxy.to_canonical())).chain([Some(peer)]).collect();
        prop_assert_eq!(path, expected, "{}", forwarded);
        let names: Vec<_> = elements[0].iter().map(|(name, _)| name.as_str()).collect();
        prop_assert!(matches!(names[..], ["for", "proto"] | ["for", "proto", "host"]), "{}", forwarded);
        prop_assert!(elements[1..].iter().all(|element| element.len() == 1), "{}", forwarded);
    }
}
