//! Cross-origin requests of browsers (CORS, as the Fetch standard has it): off unless origins are named.

use std::{collections::HashSet, str::FromStr, time::Duration};

use anyhow::{Context as _, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts, uri::Uri};

#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the flags are named after the fields")]
pub(super) struct CorsArgs {
    /// Origins whose pages may use the services from a browser, such as `https://shop.example`, with commas between;
    /// `*` for all. Left out: no CORS, and what services say about it stays
    #[arg(long, env, value_name = "ORIGINS", value_delimiter = ',')]
    cors_origins: Vec<Origin>,
    /// Methods those pages may use
    #[arg(long, env, value_name = "METHODS", value_delimiter = ',', default_value = "GET,HEAD,POST,PUT,PATCH,DELETE")]
    cors_methods: Vec<Method>,
    /// Request headers those pages may set
    #[arg(
        long,
        env,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "authorization,content-type,idempotency-key,if-match,if-none-match,traceparent,x-request-id"
    )]
    cors_headers: Vec<HeaderName>,
    /// Response headers those pages may read
    #[arg(
        long,
        env,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "etag,link,location,ratelimit,ratelimit-policy,retry-after,x-request-id"
    )]
    cors_exposed_headers: Vec<HeaderName>,
    /// Whether those pages may send cookies and the like; never with `*`
    #[arg(long, env, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    cors_credentials: bool,
    /// How long browsers may keep the answer to a preflight
    #[arg(long, env, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    cors_max_age: Duration,
}

/// An origin as browsers write it, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Origin(String);

/// Which origins are allowed what.
pub(super) struct Cors {
    /// `None` for all.
    origins: Option<HashSet<String>>,
    methods: HeaderValue,
    headers: HeaderValue,
    exposed: HeaderValue,
    has_credentials: bool,
    max_age: HeaderValue,
}

/// The origins whose pages may read the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Option<HeaderValue>);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is no origin: SCHEME://HOST or SCHEME://HOST:PORT is expected, or *";
        let text = text.trim();
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let uri: Uri = text.parse().map_err(|_| WRONG)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(WRONG) };
        // The parser reads a path of `/` into a URI without one.
        let is_bare = uri.path_and_query().is_none_or(|path| path == "/") && !text.ends_with('/');
        if !is_bare || authority.as_str().contains('@') {
            return Err(WRONG);
        }
        // As browsers write it: in lower case, and without the scheme's own port.
        let port = match (scheme, authority.port_u16()) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
            (_, Some(port)) => format!(":{port}"),
        };
        Ok(Self(format!("{scheme}://{}{port}", authority.host()).to_ascii_lowercase()))
    }
}

impl Cors {
    /// # Errors
    /// Where arguments contradict each other.
    pub(super) fn new(args: &CorsArgs) -> anyhow::Result<Option<Self>> {
        if args.cors_origins.is_empty() {
            return Ok(None);
        }
        let is_any = args.cors_origins.iter().any(|origin| origin.0 == "*");
        if is_any && args.cors_origins.len() > 1 {
            bail!("CORS_ORIGINS (or --cors-origins) is either * or a list of origins");
        }
        if is_any && args.cors_credentials {
            bail!(
                "CORS_CREDENTIALS (or --cors-credentials) needs a list of origins: with * any page could act for its visitor"
            );
        }
        let list = |names: Vec<&str>| HeaderValue::from_str(&names.join(", ")).context("the arguments of CORS");
        Ok(Some(Self {
            origins: (!is_any).then(|| args.cors_origins.iter().map(|origin| origin.0.clone()).collect()),
            methods: list(args.cors_methods.iter().map(Method::as_str).collect())?,
            headers: list(args.cors_headers.iter().map(HeaderName::as_str).collect())?,
            exposed: list(args.cors_exposed_headers.iter().map(HeaderName::as_str).collect())?,
            has_credentials: args.cors_credentials,
            max_age: args.cors_max_age.as_secs().into(),
        }))
    }

    pub(super) fn see(&self, headers: &HeaderMap) -> Asked {
        Asked(match &self.origins {
            // Also without an origin: caches keep one answer for all.
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => {
                let origin = headers.get(header::ORIGIN);
                origin.filter(|origin| origin.to_str().is_ok_and(|origin| origins.contains(origin))).cloned()
            }
        })
    }

    /// The answer to a preflight: which methods and headers a page may use. The browser compares them itself, and lets
    /// nothing pass where there is no allowed origin.
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
        if self.see(headers).0.is_some() {
            // The origin itself is set on every answer, on this one too.
            let answer = response.headers_mut();
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        Some(response)
    }

    /// Puts into an answer what this says, in place of what the service says.
    pub(super) fn apply(&self, asked: &Asked, headers: &mut HeaderMap) {
        headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
        if self.origins.is_some() {
            // Also without an origin: a cache must not give that answer to a page of another.
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        let Asked(Some(origin)) = asked else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.clone());
        if self.has_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests;
