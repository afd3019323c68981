//! Which headers end at the gateway, by their names.

mod known;

use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use known::{END_TO_END, END_TO_END_PREFIXES, HOP_BY_HOP, is_end_to_end, is_hop_by_hop, is_identity, may_end_here};

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

    /// Removes from a request what ends at the gateway, of which its trailers are a part; see `proxy::outgoing`.
    pub(super) fn strip_request(&self, headers: &mut HeaderMap) {
        strip(headers, |name| self.is_dropped(name));
        headers.remove(header::TRAILER);
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

#[cfg(test)]
mod tests;
