//! Which headers end at the gateway, by their names.

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Makes a list of names and a function that tells whether a name is in it. The function compares with each, which the
/// compiler makes a look at the length for nearly all of them: faster than any search, and this is done for every header
/// of every request.
macro_rules! names {
    ($(#[$attribute:meta])* $list:ident, $contains:ident, $test:ident, [$($name:literal),+ $(,)?]) => {
        $(#[$attribute])*
        const $list: &[&str] = &[$($name),+];

        fn $contains(name: &str) -> bool {
            names!($test, name, $($name),+)
        }
    };
    (is, $given:ident, $($name:literal),+) => { matches!($given, $($name)|+) };
    (begins, $given:ident, $($name:literal),+) => { $($given.starts_with($name))||+ };
}

names! {
    /// Headers that belong to one connection (RFC 9110, section 7.6.1). `trailer` is none of them: trailers are
    /// passed on, and so is their announcement, without which HTTP/1.1 would not carry them.
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

/// Names of headers that end at the gateway or, as exceptions, do not.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NamesArgs {
    /// More request headers that are not believed from outside, with commas between; `x-team-*` means all that begin so
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    drop_headers: Vec<Pattern>,
    /// Request headers that are passed on though they tell who the client is: of an authenticating proxy in front that
    /// sets them itself
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    keep_headers: Vec<Pattern>,
}

/// A header's name, or how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Name(String),
    Prefix(String),
}

/// Decides which request headers are passed on.
pub(super) struct Names {
    dropped: Vec<Pattern>,
    kept: Vec<Pattern>,
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim().to_ascii_lowercase();
        let stem = name.strip_suffix('*').unwrap_or(&name);
        if stem.contains('*') || HeaderName::from_bytes(stem.as_bytes()).is_err() {
            return Err("is no header name, nor the beginning of one followed by *");
        }
        let is_prefix = stem.len() < name.len();
        let stem = &*plain(stem);
        let covers = |own: &&str| if is_prefix { own.starts_with(stem) } else { *own == stem };
        let mut needed = [END_TO_END, END_TO_END_PREFIXES, HOP_BY_HOP].into_iter().flatten();
        if is_end_to_end(stem) || needed.any(covers) {
            return Err("is a header that HTTP itself needs");
        }
        Ok(if is_prefix { Self::Prefix(stem.to_owned()) } else { Self::Name(stem.to_owned()) })
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

impl Names {
    pub(super) fn new(args: &NamesArgs) -> Self {
        Self { dropped: args.drop_headers.clone(), kept: args.keep_headers.clone() }
    }

    /// Removes from a request what ends at the gateway, be it a header or a trailer: of these HTTP/1.1 has none that are
    /// not announced.
    pub(super) fn strip_request(&self, headers: &mut HeaderMap) {
        strip(headers, |name| self.is_dropped(name));
        if !headers.contains_key(header::TRAILER) {
            return;
        }
        let lines = headers.get_all(header::TRAILER).iter().filter_map(|line| line.to_str().ok());
        let names = lines.flat_map(|line| line.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok());
        let names: Vec<_> = names.filter(|name| !self.is_dropped(name.as_str())).collect();
        let announced = names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
        headers.remove(header::TRAILER);
        if let Ok(announced) = HeaderValue::from_str(&announced)
            && !names.is_empty()
        {
            headers.insert(header::TRAILER, announced);
        }
    }

    fn is_dropped(&self, name: &str) -> bool {
        // Names such as x_forwarded_for: CGI's successors (WSGI, Rack, PHP) show services the same name for it as for
        // x-forwarded-for. So they are judged by what they may be taken for, and that must not be a header that the
        // gateway answers for.
        if name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-') {
            let plain = plain(name);
            return is_end_to_end(&plain) || self.is_dropped(&plain);
        }
        (may_end_here(name) && is_hop_by_hop(name))
            || (is_identity(name) && !self.kept.iter().any(|pattern| pattern.matches(name)))
            || self.dropped.iter().any(|pattern| pattern.matches(name))
    }
}

/// Removes from an answer what belongs to the connection to the service, or tells what software that is.
pub(super) fn strip_answer(status: StatusCode, headers: &mut HeaderMap) {
    let upgrade = (status == StatusCode::SWITCHING_PROTOCOLS).then(|| headers.remove(header::UPGRADE)).flatten();
    strip(headers, |name| is_hop_by_hop(name) || name == "server" || name == "x-powered-by");
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Removes headers that are refused, and those that the Connection header names.
fn strip(headers: &mut HeaderMap, is_refused: impl Fn(&str) -> bool) {
    let mut refused: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        if is_refused(name.as_str()) {
            refused.push(name.clone());
        }
    }
    for line in headers.get_all(header::CONNECTION) {
        for option in line.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(option.trim_ascii())
                && !is_end_to_end(name.as_str())
            {
                refused.push(name);
            }
        }
    }
    for name in refused {
        headers.remove(name);
    }
}

/// The name that a service may take another one for: with `-` for all but letters and digits.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn is_identity(name: &str) -> bool {
    may_end_here(name)
        && (is_named_identity(name) || (begins_as_identity(name) && !IDENTITY_EXCEPTIONS.contains(&name)))
}

/// Whether one of the names above may begin like this: most headers are told by their first letter.
fn may_end_here(name: &str) -> bool {
    matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'h' | b'k' | b'p' | b'r' | b's' | b't' | b'u' | b'w' | b'x'))
}

fn is_end_to_end(name: &str) -> bool {
    is_named_end_to_end(name) || begins_as_end_to_end(name)
}

#[cfg(test)]
mod tests;
