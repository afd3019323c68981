use http::Request;

use super::*;
use crate::policy::{Policy, PolicyArgs};
use clap::Parser;

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

/// The headers that a service gets, of a request from 192.0.2.1 or another peer.
fn sent(policy: &Policy, peer: &str, mut parts: Parts) -> Vec<(String, String)> {
    let client = policy.client(peer.parse().expect("an address"), &parts.headers);
    policy.to_upstream(&mut parts, &client);
    let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
    let mut lines: Vec<_> = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    lines.sort();
    lines
}

fn lines(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_service_is_told_of_the_client_and_of_nothing_that_the_client_says_of_itself() {
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
fn behind_trusted_proxies_a_service_is_told_of_the_way_from_the_client_on() {
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
fn the_way_is_told_in_its_order_and_the_port_as_a_trusted_proxy_says() {
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
fn the_host_of_a_request_without_that_header_is_its_authority() {
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
fn a_host_cannot_add_to_what_is_said_of_it() {
    for host in ["a\";for=\"203.0.113.1", "a\\", ""] {
        let parts = request(Version::HTTP_11, "/", &[("host", host)]);
        let sent = sent(&policy(&[]), "192.0.2.1:1000", parts);
        assert!(sent.contains(&("forwarded".to_owned(), "for=192.0.2.1;proto=http".to_owned())), "{sent:?}");
    }
}

#[test]
fn only_websockets_are_passed_on_as_upgrades() {
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
        let passed = lines(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(connection, if *expected { passed } else { Vec::new() }, "{version:?} {given:?}");
    }
}

#[test]
fn only_a_get_is_an_upgrade() {
    for (method, expected) in [(Method::GET, true), (Method::HEAD, false), (Method::POST, false)] {
        let mut parts = request(Version::HTTP_11, "/", &[("connection", "upgrade"), ("upgrade", "websocket")]);
        parts.method = method;
        assert_eq!(is_upgrade(&parts), expected, "{}", parts.method);
    }
}

#[test]
fn trailers_are_asked_for_where_the_client_takes_them() {
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
fn an_expectation_is_met_here() {
    let parts = request(Version::HTTP_11, "/", &[("expect", "100-continue")]);
    assert!(!sent(&policy(&[]), "192.0.2.1:1000", parts).iter().any(|(name, _)| name == "expect"));
}

#[test]
fn tags_of_compressed_answers_are_turned_back() {
    let parts = request(Version::HTTP_11, "/", &[("if-match", "\"3--gzip\"")]);
    let sent = sent(&policy(&["--compression", "false"]), "192.0.2.1:1000", parts);
    assert!(sent.contains(&("if-match".to_owned(), "\"3\"".to_owned())), "{sent:?}");
}
