//! Decides by their names which headers the gateway forwards.

mod known;

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use known::{
    END_TO_END, END_TO_END_PREFIXES, HOP_BY_HOP, METHOD_OVERRIDES, OWN_PREFIXES, is_end_to_end, is_forbidden_trailer,
    is_hop_by_hop, is_identity, may_be_listed,
};

/// Exceptions to the built-in lists of headers.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct HeaderFilterArgs {
    /// Comma-separated names of additional request headers that are not forwarded. `x-team-*` matches a prefix
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    drop_headers: Vec<Pattern>,
    /// Comma-separated names of identity headers that are forwarded after all, because an authenticating proxy in
    /// front of the gateway always sets them. Only the exact name is forwarded, never one such as `X_Remote_User`
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    keep_headers: Vec<Pattern>,
}

/// The name of a header, or a prefix of names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Name(String),
    Prefix(String),
}

/// Decides which request headers are forwarded.
pub(super) struct HeaderFilter {
    dropped: Vec<Pattern>,
    kept: Vec<Pattern>,
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.trim().to_ascii_lowercase();
        let stem = name.strip_suffix('*').unwrap_or(&name);
        if stem.contains('*') || HeaderName::from_bytes(stem.as_bytes()).is_err() {
            return Err("expected a header name, or a prefix followed by *");
        }
        let is_prefix = stem.len() < name.len();
        let stem = &*canonical(stem);
        let matches = |own: &&str| if is_prefix { own.starts_with(stem) } else { *own == stem };
        let mut required = [END_TO_END, END_TO_END_PREFIXES, HOP_BY_HOP, OWN_PREFIXES].into_iter().flatten();
        let is_own = OWN_PREFIXES.iter().any(|own| stem.starts_with(own));
        if is_end_to_end(stem) || is_own || required.any(matches) {
            return Err("the gateway's handling of this header cannot be changed");
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

impl HeaderFilter {
    pub(super) fn new(args: &HeaderFilterArgs) -> Self {
        Self { dropped: args.drop_headers.clone(), kept: args.keep_headers.clone() }
    }

    /// Removes the headers that are not forwarded. Trailers of requests are not forwarded either, so their announcement
    /// is removed too.
    pub(super) fn strip_request(&self, headers: &mut HeaderMap) {
        strip(headers, |name| self.is_dropped(name), |name| self.is_kept(name));
        headers.remove(header::TRAILER);
    }

    fn is_dropped(&self, name: &str) -> bool {
        // WSGI, Rack and PHP, like CGI, give services the same variable for x_forwarded_for as for x-forwarded-for. So
        // such a name is treated like the name that it may be mistaken for. It must not be mistaken for an end-to-end
        // header either, or for a kept one: the proxy in front sets only the exact name.
        if name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-') {
            let canonical = canonical(name);
            return is_end_to_end(&canonical) || self.is_kept(&canonical) || self.is_dropped(&canonical);
        }
        (may_be_listed(name) && is_hop_by_hop(name))
            || (is_identity(name) && !self.is_kept(name))
            || self.dropped.iter().any(|pattern| pattern.matches(name))
    }

    fn is_kept(&self, name: &str) -> bool {
        self.kept.iter().any(|pattern| pattern.matches(name))
    }
}

/// Removes headers that could change the method, in any spelling, after rules were applied to it.
pub(super) fn strip_method_overrides(headers: &mut HeaderMap) {
    let is_override = |name: &&HeaderName| METHOD_OVERRIDES.contains(&&*canonical(name.as_str()));
    let overrides: Vec<_> = headers.keys().filter(is_override).cloned().collect();
    for name in overrides {
        headers.remove(name);
    }
}

/// Removes response headers that belong to the connection to the upstream, reveal its software or do not fit the
/// status.
pub(super) fn strip_response(status: StatusCode, headers: &mut HeaderMap) {
    // A 426 says which protocols the service requires (RFC 9110, section 15.5.22).
    let required = if status == StatusCode::UPGRADE_REQUIRED { headers.remove(header::UPGRADE) } else { None };
    strip(headers, is_connection_or_software, |_| false);
    // The only upgrade that is forwarded.
    let websocket = || HeaderValue::from_static("websocket");
    if let Some(upgrade) = required.or_else(|| (status == StatusCode::SWITCHING_PROTOCOLS).then(websocket)) {
        headers.insert(header::UPGRADE, upgrade);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    // RFC 9110, section 8.6. The content of a 205 is dropped.
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) || status.is_informational() {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Removes trailers that [`strip_response`] would remove, and those that must not be trailers (RFC 9110, section
/// 6.5.1): a client that merges trailers into the headers would take them for headers that the gateway has checked.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers, |name| is_connection_or_software(name) || is_forbidden_trailer(name), |_| false);
}

fn is_connection_or_software(name: &str) -> bool {
    is_hop_by_hop(name) || name == "server" || name == "x-powered-by"
}

/// Removes headers that match the predicate, and headers that the Connection header names, unless they are end-to-end
/// headers or kept.
fn strip(headers: &mut HeaderMap, is_dropped: impl Fn(&str) -> bool, is_kept: impl Fn(&str) -> bool) {
    let mut dropped: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        if is_dropped(name.as_str()) {
            dropped.push(name.clone());
        }
    }
    for line in headers.get_all(header::CONNECTION) {
        for option in line.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(option.trim_ascii())
                && !is_end_to_end(name.as_str())
                && !is_kept(name.as_str())
            {
                dropped.push(name);
            }
        }
    }
    for name in dropped {
        headers.remove(name);
    }
}

/// The name that a service may mistake another name for: everything but letters and digits becomes a hyphen.
fn canonical(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests;
