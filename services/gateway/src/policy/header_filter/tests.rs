mod responses;

use proptest::prelude::*;

use super::{
    known::{IDENTITY, IDENTITY_PREFIXES},
    *,
};

fn filter(dropped: &[&str], kept: &[&str]) -> HeaderFilter {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a pattern")).collect();
    HeaderFilter::new(&HeaderFilterArgs { drop_headers: patterns(dropped), keep_headers: patterns(kept) })
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
    }
    headers
}

/// The names of the headers that are forwarded, sorted.
fn forwarded(filter: &HeaderFilter, lines: &[(&str, &str)]) -> Vec<String> {
    let mut headers = headers(lines);
    filter.strip_request(&mut headers);
    let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
    names.sort();
    names
}

fn is_forwarded(name: &str) -> bool {
    !forwarded(&filter(&[], &[]), &[(name, "x")]).is_empty()
}

#[test]
fn listed_headers_are_dropped() {
    for name in HOP_BY_HOP.iter().chain(IDENTITY) {
        assert!(!is_forwarded(name), "{name}");
    }
    for prefix in IDENTITY_PREFIXES {
        assert!(
            !is_forwarded(prefix) && !is_forwarded(&format!("{prefix}a")) && !is_forwarded(&format!("{prefix}z-x")),
            "{prefix}"
        );
    }
}

#[test]
fn hop_by_hop_and_identity_headers_are_dropped() {
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
        "WL-Proxy-SSL",
        "X-TLS-Client-Cert",
        "X-SPIFFE-ID",
        "X-HTTP-Host-Override",
        "X-Host",
        "Front-End-Https",
        "X-Originating-IP",
        "Client-Cert",
        "Client-Cert-Chain",
        "X-Amzn-Mtls-Clientcert",
        "X-Amzn-Mtls-Clientcert-Subject",
        "X-ARR-ClientCert",
        "Incap-Client-IP",
        "DO-Connecting-IP",
        "X-Appengine-User-IP",
        "CloudFront-Viewer-Address",
        "X-Role",
        "X-Group",
        "X-Email",
        "X-UID",
        "X-Tenant-Id",
        "X-Scope-OrgID",
        "Impersonate-User",
        "Impersonate-Extra-Scopes",
        "X-Hedgerow-Subject",
        "X-Hedgerow-Scope",
        "X-Hedgerow-Client",
        "X-Hedgerow-Issuer",
        "Hedgerow-On-Behalf-Of",
    ] {
        assert!(!is_forwarded(name), "{name}");
    }
}

#[test]
fn end_to_end_headers_are_forwarded() {
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
        "X-Correlation-Id",
        "X-Session-Id",
        "X-Client-Id",
        "X-Client-Version",
        "X-Device-Id",
        "X-B3-TraceId",
        "X-Idempotency-Key",
    ] {
        assert!(is_forwarded(name), "{name}");
    }
}

#[test]
fn names_that_services_may_mistake_for_others_are_dropped() {
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
        "x_hedgerow_subject",
        "X-Hedgerow_Scope",
        "x.hedgerow.client",
        "x~hedgerow|subject",
        "hedgerow_on_behalf_of",
        "HEDGEROW-ON_BEHALF-OF",
    ] {
        assert!(!is_forwarded(name), "{name}");
    }
}

#[test]
fn flags_drop_and_keep_additional_headers() {
    let filter = filter(&["X_Region", "x-team-*"], &["x-forwarded-user", "x_auth_request_*"]);
    let lines = [
        ("x-region", "1"),
        ("x_region", "1"),
        ("x-regions", "1"),
        ("x-team-lead", "1"),
        ("x-teams", "1"),
        ("x-forwarded-user", "1"),
        ("x-forwarded-email", "1"),
        ("x-auth-request-user", "1"),
        ("x-auth-user", "1"),
    ];
    assert_eq!(forwarded(&filter, &lines), ["x-auth-request-user", "x-forwarded-user", "x-regions", "x-teams"]);
    for bad in [
        "",
        "*",
        "a b",
        "x-*-y",
        "host",
        "ho*",
        "x-hedgerow-subject",
        "x_hedgerow_*",
        "x-hedge*",
        "hedgerow-on-behalf-of",
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
fn connection_options_are_dropped_except_end_to_end_headers() {
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
    assert_eq!(forwarded(&filter(&[], &[]), &lines), expected);
}

/// The proxy in front sets the exact name, so a client could add its own under another spelling.
#[test]
fn only_the_exact_name_of_a_kept_header_is_forwarded() {
    let filter = filter(&[], &["x-remote-user", "x_auth_request_*", "x-own"]);
    for name in ["x_remote_user", "X_Remote_User", "x-remote_user", "x.remote.user", "x_auth_request_user", "x_own"] {
        assert!(forwarded(&filter, &[(name, "1")]).is_empty(), "{name}");
    }
    let lines = [
        ("connection", "x-remote-user, X-Auth-Request-User, x-own"),
        ("x-remote-user", "1"),
        ("x-auth-request-user", "1"),
        ("x-own", "1"),
    ];
    assert_eq!(forwarded(&filter, &lines), ["x-auth-request-user", "x-own", "x-remote-user"]);
}

proptest! {
    #[test]
    fn a_connection_header_affects_no_end_to_end_headers(
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
        prop_assert_eq!(forwarded(&filter(&[], &[]), &lines), expected);
    }

    #[test]
    fn lookalikes_of_protected_names_are_never_forwarded(
        name in proptest::sample::select([IDENTITY, HOP_BY_HOP, &["x-forwarded-for", "x-user-id", "x-real-ip"]].concat()),
        separators in proptest::collection::vec("[_.!~-]", 6),
        upper in any::<bool>(),
    ) {
        let mut separators = separators.iter();
        let lookalike: String =
            name.chars().map(|c| if c == '-' { separators.next().and_then(|text| text.chars().next()).unwrap_or('-') } else { c }).collect();
        let lookalike = if upper { lookalike.to_uppercase() } else { lookalike };
        prop_assert!(!is_forwarded(&lookalike), "{}", lookalike);
    }

    #[test]
    fn any_valid_name_is_judged_by_its_canonical_form(name in "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,24}|(x|content|if|accept)[_.-][a-z_-]{1,12}") {
        let lower = name.to_ascii_lowercase();
        let canonical = canonical(&lower);
        let is_lookalike = lower != canonical;
        let expected = is_forwarded(&canonical) && !(is_lookalike && is_end_to_end(&canonical));
        prop_assert_eq!(is_forwarded(&name), expected && lower != "trailer", "{}", name);
        if !is_lookalike && is_end_to_end(&lower) && lower != "trailer" {
            prop_assert!(is_forwarded(&name), "{}", name);
        }
    }

    #[test]
    fn a_pattern_never_matches_a_header_that_http_requires(text in "[a-zA-Z_*-]{1,10}|.{0,10}") {
        let Ok(pattern) = text.parse::<Pattern>() else { return Ok(()) };
        for name in END_TO_END.iter().chain(END_TO_END_PREFIXES).chain(HOP_BY_HOP) {
            prop_assert!(!pattern.matches(name), "{} matches {}", text, name);
        }
    }
}

#[test]
fn identity_headers_of_known_proxies_are_dropped() {
    for name in [
        "Ali-CDN-Real-IP",
        "CDN-Src-IP",
        "Impersonate-User",
        "Ngrok-Auth-User-Email",
        "OIDC_CLAIM_email",
        "OIDC-CLAIM-sub",
        "Tailscale-User-Login",
        "X-Email",
        "X-Group",
        "X-Id-Token",
        "X-JWT-Claim-Sub",
        "X-NF-Client-Connection-IP",
        "X-Role",
        "X-Shib-User",
        "X-UserID",
        "X-Vercel-Forwarded-For",
    ] {
        assert!(!is_forwarded(name), "{name}");
    }
}
