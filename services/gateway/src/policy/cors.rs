//! Cross-origin resource sharing (CORS) as in the Fetch standard. It is off unless origins are configured.
//!
//! `tower_http::cors` does not fit a proxy: it responds to every OPTIONS request instead of preflights only, and keeps
//! the CORS headers of a service if the origin is not allowed.

use std::{collections::HashSet, str::FromStr, time::Duration};

use anyhow::{Context as _, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts, uri::Uri};

#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the flags are named after the fields")]
pub(super) struct CorsArgs {
    /// Comma-separated origins whose pages may call the services from a browser, such as `https://shop.example`, or `*`
    /// for all. If unset, the gateway does not handle CORS, and CORS headers of services are kept
    #[arg(long, env, value_name = "ORIGINS", value_delimiter = ',')]
    cors_origins: Vec<Origin>,
    /// Methods that these pages may use
    #[arg(long, env, value_name = "METHODS", value_delimiter = ',', default_value = "GET,HEAD,POST,PUT,PATCH,DELETE")]
    cors_methods: Vec<Method>,
    /// Request headers that these pages may set
    #[arg(
        long,
        env,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "authorization,content-type,idempotency-key,if-match,if-none-match,traceparent,x-request-id"
    )]
    cors_headers: Vec<HeaderName>,
    /// Response headers that these pages may read
    #[arg(
        long,
        env,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "etag,link,location,ratelimit,ratelimit-policy,retry-after,x-request-id"
    )]
    cors_exposed_headers: Vec<HeaderName>,
    /// Whether these pages may send credentials such as cookies; not allowed with `*`
    #[arg(long, env, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    cors_credentials: bool,
    /// How long browsers may cache the response to a preflight
    #[arg(long, env, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    cors_max_age: Duration,
}

/// An origin as browsers serialize it, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin(String);

/// The CORS policy.
pub(super) struct Cors {
    /// `None` if all origins are allowed.
    origins: Option<HashSet<String>>,
    methods: HeaderValue,
    headers: HeaderValue,
    exposed: HeaderValue,
    allows_credentials: bool,
    max_age: HeaderValue,
}

/// The value of Access-Control-Allow-Origin for a request; `None` if its origin is not allowed.
#[derive(Debug, Clone, Default)]
pub(super) struct AllowedOrigin(Option<HeaderValue>);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected SCHEME://HOST, SCHEME://HOST:PORT or *";
        let text = text.trim();
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(EXPECTED) };
        // The parser adds the path `/` to a URI without a path.
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/") && !text.ends_with('/');
        if !is_bare || authority.as_str().contains('@') {
            return Err(EXPECTED);
        }
        // Browsers serialize an origin in lower case and without the default port.
        let port = match (scheme, authority.port_u16()) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
            (_, Some(port)) => format!(":{port}"),
        };
        Ok(Self(format!("{scheme}://{}{port}", authority.host()).to_ascii_lowercase()))
    }
}

impl Cors {
    /// # Errors
    /// Returns an error if flags contradict each other.
    pub(super) fn new(args: &CorsArgs) -> anyhow::Result<Option<Self>> {
        if args.cors_origins.is_empty() {
            return Ok(None);
        }
        let is_any = args.cors_origins.iter().any(|origin| origin.0 == "*");
        if is_any && args.cors_origins.len() > 1 {
            bail!("CORS_ORIGINS (--cors-origins) must be either * or a list of origins");
        }
        if is_any && args.cors_credentials {
            bail!(
                "CORS_CREDENTIALS (--cors-credentials) must not be used with the origin *: any page could act on behalf of its visitors; list the origins"
            );
        }
        let list = |names: Vec<&str>| {
            HeaderValue::from_str(&names.join(", "))
                .context("invalid CORS_METHODS, CORS_HEADERS or CORS_EXPOSED_HEADERS")
        };
        Ok(Some(Self {
            origins: (!is_any).then(|| args.cors_origins.iter().map(|origin| origin.0.clone()).collect()),
            methods: list(args.cors_methods.iter().map(Method::as_str).collect())?,
            headers: list(args.cors_headers.iter().map(HeaderName::as_str).collect())?,
            exposed: list(args.cors_exposed_headers.iter().map(HeaderName::as_str).collect())?,
            allows_credentials: args.cors_credentials,
            max_age: args.cors_max_age.as_secs().into(),
        }))
    }

    pub(super) fn allowed_origin(&self, headers: &HeaderMap) -> AllowedOrigin {
        AllowedOrigin(match &self.origins {
            // Also for requests without an origin, because caches store one response for all.
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => {
                let origin = headers.get(header::ORIGIN);
                origin.filter(|origin| origin.to_str().is_ok_and(|origin| origins.contains(origin))).cloned()
            }
        })
    }

    /// The response to a preflight: which methods and headers a page may use; `None` for other requests. The browser
    /// does the comparison, and blocks the request if the response allows no origin.
    pub(super) fn preflight(&self, parts: &Parts) -> Option<Response<()>> {
        let headers = &parts.headers;
        let is_preflight = parts.method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::NO_CONTENT;
        if self.allowed_origin(headers).0.is_some() {
            // `apply` adds Access-Control-Allow-Origin, as it does to every response.
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        Some(response)
    }

    /// Replaces the CORS headers of the service by those of this policy.
    pub(super) fn apply(&self, allowed: &AllowedOrigin, headers: &mut HeaderMap) {
        headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        if self.origins.is_some() {
            // Also for requests without an origin: a cache must not reuse their response for pages.
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let AllowedOrigin(Some(origin)) = allowed else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.clone());
        if self.allows_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests;
