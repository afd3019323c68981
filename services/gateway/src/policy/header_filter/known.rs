//! Lists of well-known header names.

/// Defines a list of names and a function that checks whether a name is in it. The function compares with each name.
/// The compiler turns most comparisons into a check of the length, which is faster than any search, and this code runs
/// for every header of every request.
macro_rules! names {
    ($(#[$attribute:meta])* $list:ident, $contains:ident, $test:ident, [$($name:literal),+ $(,)?]) => {
        $(#[$attribute])*
        pub(super) const $list: &[&str] = &[$($name),+];

        pub(super) fn $contains(name: &str) -> bool {
            names!($test, name, $($name),+)
        }
    };
    (is, $given:ident, $($name:literal),+) => { matches!($given, $($name)|+) };
    (prefix, $given:ident, $($name:literal),+) => { $($given.starts_with($name))||+ };
}

names! {
    /// Headers that belong to one connection (RFC 9110, section 7.6.1). `trailer` is not among them: trailers of
    /// responses are forwarded, and over HTTP/1.1 they must be announced.
    HOP_BY_HOP, is_hop_by_hop, is, [
        "connection",
        "http2-settings",
        "keep-alive",
        // Not a standard header. CGI programs would see it as `HTTP_PROXY` and use it as their own proxy (httpoxy).
        "proxy",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ]
}

names! {
    /// Headers that services trust because a gateway sets them: who the client is, and what it has requested.
    #[cfg(test)]
    IDENTITY, is_named_identity, is, [
        "ali-cdn-real-ip",
        "cdn-src-ip",
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        // RFC 9440.
        "client-cert",
        "client-cert-chain",
        "client-ip",
        "do-connecting-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "forwarded",
        "front-end-https",
        "http-client-ip",
        "http-x-forwarded-for",
        "impersonate-group",
        "impersonate-uid",
        "impersonate-user",
        "incap-client-ip",
        "proxy-client-ip",
        "true-client-ip",
        "wl-proxy-client-ip",
        "wl-proxy-ssl",
        "x-account",
        "x-account-id",
        "x-admin",
        "x-apigateway-api-userinfo",
        "x-arr-clientcert",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-client-dn",
        "x-client-ip",
        "x-client-verify",
        "x-cluster-client-ip",
        "x-email",
        "x-endpoint-api-userinfo",
        "x-forwarded",
        "x-group",
        "x-groups",
        "x-host",
        "x-http-host-override",
        "x-id-token",
        "x-is-admin",
        "x-jwt-assertion",
        "x-jwt-claims",
        "x-jwt-payload",
        "x-login",
        "x-nf-client-connection-ip",
        "x-org-id",
        "x-organization-id",
        "x-originating-ip",
        "x-permissions",
        "x-principal",
        "x-rewrite-url",
        "x-role",
        "x-roles",
        "x-scheme",
        "x-scope",
        "x-scope-orgid",
        "x-scopes",
        "x-spiffe-id",
        "x-sub",
        "x-subject",
        "x-tenant",
        "x-tenant-id",
        "x-tls-client-cert",
        "x-token-claims",
        "x-uid",
        "x-url-scheme",
        "x-user",
        "x-userid",
        "x-userinfo",
        "x-username",
        "x-vercel-forwarded-for",
    ]
}

names! {
    /// The same, by prefix.
    #[cfg(test)]
    IDENTITY_PREFIXES, has_identity_prefix, prefix, [
        "cf-access-",
        "cloudfront-viewer-",
        // Set by services that act for a caller of theirs, and by the gateway.
        "hedgerow-",
        "impersonate-extra-",
        "ngrok-auth-",
        "oidc-",
        "remote-",
        "ssl-client-",
        "tailscale-user-",
        "x-amzn-mtls-",
        "x-amzn-oidc-",
        "x-appengine-",
        "x-auth-",
        "x-authenticated-",
        "x-authentik-",
        "x-client-cert",
        "x-consumer-",
        "x-credential-",
        "x-envoy-",
        "x-forwarded-",
        "x-goog-authenticated-user-",
        "x-goog-iap-",
        "x-hedgerow-",
        "x-jwt-claim-",
        "x-ms-client-principal",
        "x-ms-token-",
        "x-original-",
        "x-pomerium-",
        "x-real-",
        "x-remote-",
        "x-shib-",
        "x-ssl-",
        "x-user-",
        "x-vouch-",
        "x-webauth-",
    ]
}

/// The prefixes of headers by which the gateway itself says who sent a request. No setting lets a client set them.
pub(super) const OWN_PREFIXES: &[&str] = &["hedgerow-", "x-hedgerow-"];

/// Headers that make some services take another method than that of the request line.
pub(super) const METHOD_OVERRIDES: &[&str] = &["x-http-method", "x-http-method-override", "x-method-override"];

/// Headers with such a prefix that are not about identity: credentials of the client, which a service verifies, and the
/// user agent of gRPC-Web.
const IDENTITY_EXCEPTIONS: [&str; 3] = ["x-auth-key", "x-auth-token", "x-user-agent"];

names! {
    /// End-to-end headers. They are kept even if a Connection header names them, which RFC 9110 forbids: otherwise a
    /// client could remove the id, credentials or conditions of a request on its way.
    END_TO_END, is_named_end_to_end, is, [
        "accept",
        "age",
        "allow",
        "authorization",
        "baggage",
        "cache-control",
        "cookie",
        "date",
        "etag",
        "expect",
        "expires",
        "from",
        "host",
        "idempotency-key",
        "last-modified",
        "link",
        "location",
        "origin",
        "pragma",
        "prefer",
        "priority",
        "range",
        "ratelimit",
        "ratelimit-policy",
        "referer",
        "referrer-policy",
        "retry-after",
        "set-cookie",
        "strict-transport-security",
        "traceparent",
        "tracestate",
        "trailer",
        "user-agent",
        "vary",
        "www-authenticate",
        "x-request-id",
    ]
}

names! {
    /// The same, by prefix.
    END_TO_END_PREFIXES, has_end_to_end_prefix, prefix, [
        "accept-",
        "access-control-",
        "content-",
        "grpc-",
        "if-",
        "sec-",
        "x-content-",
        "x-frame-",
    ]
}

names! {
    /// Headers that must not be trailers, because they concern framing, routing, authentication, caching or how the
    /// content is processed (RFC 9110, section 6.5.1). Hop-by-hop headers are not repeated here.
    #[cfg(test)]
    FORBIDDEN_TRAILERS, is_forbidden_trailer, is, [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-range",
        "content-security-policy",
        "content-type",
        "cookie",
        "expires",
        "host",
        "location",
        "retry-after",
        "set-cookie",
        "strict-transport-security",
        "trailer",
        "vary",
        "www-authenticate",
        "x-request-id",
    ]
}

pub(super) fn is_identity(name: &str) -> bool {
    may_be_listed(name)
        && (is_named_identity(name) || (has_identity_prefix(name) && !IDENTITY_EXCEPTIONS.contains(&name)))
}

/// Whether a name may be in the lists of hop-by-hop and identity headers. The first letter rules out most headers.
pub(super) fn may_be_listed(name: &str) -> bool {
    matches!(
        name.as_bytes().first(),
        Some(b'a' | b'c'..=b'd' | b'f' | b'h'..=b'i' | b'k' | b'n'..=b'p' | b'r'..=b'u' | b'w'..=b'x')
    )
}

pub(super) fn is_end_to_end(name: &str) -> bool {
    is_named_end_to_end(name) || has_end_to_end_prefix(name)
}
