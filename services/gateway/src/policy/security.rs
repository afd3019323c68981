//! Security headers of responses. Headers that a service sets itself take precedence.

use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderMap, HeaderValue, header};

use super::client::Scheme;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct SecurityArgs {
    /// Whether to add security headers to responses: X-Content-Type-Options, X-Frame-Options, Referrer-Policy and, over
    /// https, Strict-Transport-Security. Headers that a service sets itself are kept
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    security_headers: bool,
    /// Max-age of Strict-Transport-Security: how long browsers insist on https. With 0s the header is not sent
    #[arg(long, env, value_name = "TIME", default_value = "365d", value_parser = humantime::parse_duration)]
    hsts_max_age: Duration,
}

/// Adds security headers.
pub(super) struct Security {
    is_enabled: bool,
    hsts: Option<HeaderValue>,
}

impl Security {
    pub(super) fn new(args: &SecurityArgs) -> anyhow::Result<Self> {
        let seconds = args.hsts_max_age.as_secs();
        let hsts = (seconds > 0).then(|| HeaderValue::from_str(&format!("max-age={seconds}")));
        Ok(Self { is_enabled: args.security_headers, hsts: hsts.transpose().context("HSTS_MAX_AGE")? })
    }

    pub(super) fn apply(&self, scheme: Scheme, headers: &mut HeaderMap) {
        if !self.is_enabled {
            return;
        }
        headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
        // If a service sets `frame-ancestors` in a Content-Security-Policy, browsers ignore this header.
        headers.entry(header::X_FRAME_OPTIONS).or_insert(HeaderValue::from_static("DENY"));
        // Not `no-referrer`: it makes browsers submit forms with `Origin: null`, which origin checks refuse.
        let referrer = HeaderValue::from_static("strict-origin-when-cross-origin");
        headers.entry(header::REFERRER_POLICY).or_insert(referrer);
        // It must not be sent over plain HTTP (RFC 6797, section 7.2).
        if let (Scheme::Https, Some(hsts)) = (scheme, &self.hsts) {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> SecurityArgs {
        SecurityArgs { security_headers: true, hsts_max_age: Duration::from_mins(1) }
    }

    fn applied(args: &SecurityArgs, scheme: Scheme, own: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        let own = own.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let mut headers = own.collect();
        Security::new(args).expect("valid").apply(scheme, &mut headers);
        headers
    }

    #[test]
    fn hsts_is_sent_only_over_https() {
        let plain = applied(&args(), Scheme::Http, &[]);
        assert_eq!(plain.len(), 3);
        assert!(!plain.contains_key(header::STRICT_TRANSPORT_SECURITY));
        let secure = applied(&args(), Scheme::Https, &[]);
        assert_eq!(secure.get(header::STRICT_TRANSPORT_SECURITY), Some(&HeaderValue::from_static("max-age=60")));
        let without_hsts = SecurityArgs { hsts_max_age: Duration::ZERO, ..args() };
        assert_eq!(applied(&without_hsts, Scheme::Https, &[]), plain);
    }

    #[test]
    fn headers_of_the_service_take_precedence() {
        let own = [(header::X_FRAME_OPTIONS, "SAMEORIGIN"), (header::STRICT_TRANSPORT_SECURITY, "max-age=1")];
        let headers = applied(&args(), Scheme::Https, &own);
        for (name, value) in own {
            assert_eq!(headers.get_all(&name).iter().collect::<Vec<_>>(), [value]);
        }
        assert_eq!(headers.get(header::X_CONTENT_TYPE_OPTIONS), Some(&HeaderValue::from_static("nosniff")));
    }

    #[test]
    fn security_headers_can_be_disabled() {
        let disabled = SecurityArgs { security_headers: false, ..args() };
        assert!(applied(&disabled, Scheme::Https, &[]).is_empty());
    }
}
