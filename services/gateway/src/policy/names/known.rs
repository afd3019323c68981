//! Headers that are known by their names, and what they are known for.

/// Makes a list of names and a function that tells whether a name is in it. The function compares with each, which the
/// compiler makes a look at the length for nearly all of them: faster than any search, and this is done for every header
/// of every request.
macro_rules! names {
    ($(#[$attribute:meta])* $list:ident, $contains:ident, $test:ident, [$($name:literal),+ $(,)?]) => {
        $(#[$attribute])*
        pub(super) const $list: &[&str] = &[$($name),+];

        pub(super) fn $contains(name: &str) -> bool {
            names!($test, name, $($name),+)
        }
    };
    (is, $given:ident, $($name:literal),+) => { matches!($given, $($name)|+) };
    (begins, $given:ident, $($name:literal),+) => { $($given.starts_with($name))||+ };
}

names! {
    /// Headers that belong to one connection (RFC 9110, section 7.6.1). `trailer` is none of them: an
    /// answer's trailers are passed on, and so is their announcement, without which HTTP/1.1 would not carry them.
    HOP_BY_HOP, is_hop_by_hop, is, [
        "connection",
        "http2-settings",
        "keep-alive",
        // Of no standard: a program that sees headers as variables would take `HTTP_PROXY` for a proxy of its own.
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
    /// Headers by which services believe a gateway about who the client is or what it asked for.
    #[cfg(test)]
    IDENTITY, is_named_identity, is, [
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "client-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "forwarded",
        "front-end-https",
        "http-client-ip",
        "http-x-forwarded-for",
        "proxy-client-ip",
        "true-client-ip",
        "wl-proxy-client-ip",
        "x-apigateway-api-userinfo",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-client-dn",
        "x-client-ip",
        "x-client-verify",
        "x-cluster-client-ip",
        "x-endpoint-api-userinfo",
        "x-forwarded",
        "x-groups",
        "x-jwt-assertion",
        "x-jwt-payload",
        "x-originating-ip",
        "x-rewrite-url",
        "x-roles",
        "x-scheme",
        "x-url-scheme",
        "x-user",
        "x-userinfo",
        "x-username",
    ]
}

names! {
    /// The same, by how they begin.
    #[cfg(test)]
    IDENTITY_PREFIXES, begins_as_identity, begins, [
        "cf-access-",
        "remote-",
        "ssl-client-",
        "x-amzn-oidc-",
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
        "x-ms-client-principal",
        "x-ms-token-",
        "x-original-",
        "x-pomerium-",
        "x-real-",
        "x-remote-",
        "x-ssl-",
        "x-user-",
        "x-vouch-",
        "x-webauth-",
    ]
}

/// What such a beginning does not mean: a client's own credentials, which a service checks, and its own name for
/// itself, as gRPC-Web sends it.
const IDENTITY_EXCEPTIONS: [&str; 3] = ["x-auth-key", "x-auth-token", "x-user-agent"];

names! {
    /// Headers for the far end that a Connection header cannot have removed, whatever it names (RFC 9110 forbids naming
    /// them): else a client could take a request's id, credentials or conditions from it on its way.
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
    /// The same, by how they begin.
    END_TO_END_PREFIXES, begins_as_end_to_end, begins, [
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

pub(super) fn is_identity(name: &str) -> bool {
    may_end_here(name)
        && (is_named_identity(name) || (begins_as_identity(name) && !IDENTITY_EXCEPTIONS.contains(&name)))
}

/// Whether one of the names above may begin like this: most headers are told by their first letter.
pub(super) fn may_end_here(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'h' | b'k' | b'p' | b'r' | b's' | b't' | b'u' | b'w' | b'x'))
}

pub(super) fn is_end_to_end(name: &str) -> bool {
    is_named_end_to_end(name) || begins_as_end_to_end(name)
}
