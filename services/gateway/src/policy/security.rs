//! Headers by which an answer asks a browser to be careful with it; what a service sets itself stays.

use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderMap, HeaderValue, header};

use super::client::Scheme;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct SecurityArgs {
    /// Whether answers get headers for browsers: X-Content-Type-Options, X-Frame-Options, Referrer-Policy, and where the
    /// client used https Strict-Transport-Security; what a service sets itself stays
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    security_headers: bool,
    /// For how long Strict-Transport-Security has browsers use nothing but https; 0s for not at all
    #[arg(long, env, value_name = "TIME", default_value = "365d", value_parser = humantime::parse_duration)]
    hsts_max_age: Duration,
}

/// The headers to add.
pub(super) struct Security {
    is_on: bool,
    hsts: Option<HeaderValue>,
}

impl Security {
    pub(super) fn new(args: &SecurityArgs) -> anyhow::Result<Self> {
        let seconds = args.hsts_max_age.as_secs();
        let hsts = (seconds > 0).then(|| HeaderValue::from_str(&format!("max-age={seconds}")));
        Ok(Self { is_on: args.security_headers, hsts: hsts.transpose().context("HSTS_MAX_AGE")? })
    }

    pub(super) fn apply(&self, scheme: Scheme, headers: &mut HeaderMap) {
        if !self.is_on {
            return;
        }
        headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
        // A policy of the service's own about frames goes before this one in every browser that knows it.
        headers.entry(header::X_FRAME_OPTIONS).or_insert(HeaderValue::from_static("DENY"));
        // Not `no-referrer`: with it browsers send `Origin: null` with forms, which checks of the origin refuse.
        let referrer = HeaderValue::from_static("strict-origin-when-cross-origin");
        headers.entry(header::REFERRER_POLICY).or_insert(referrer);
        // On plain HTTP it must not be sent (RFC 6797, section 7.2).
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
    fn https_is_asked_for_only_where_it_was_used() {
        let plain = applied(&args(), Scheme::Http, &[]);
        assert_eq!(plain.len(), 3);
        assert!(!plain.contains_key(header::STRICT_TRANSPORT_SECURITY));
        let secure = applied(&args(), Scheme::Https, &[]);
        assert_eq!(secure.get(header::STRICT_TRANSPORT_SECURITY), Some(&HeaderValue::from_static("max-age=60")));
        let never = SecurityArgs { hsts_max_age: Duration::ZERO, ..args() };
        assert_eq!(applied(&never, Scheme::Https, &[]), plain);
    }

    #[test]
    fn what_the_service_says_itself_stays() {
        let own = [(header::X_FRAME_OPTIONS, "SAMEORIGIN"), (header::STRICT_TRANSPORT_SECURITY, "max-age=1")];
        let headers = applied(&args(), Scheme::Https, &own);
        for (name, value) in own {
            assert_eq!(headers.get_all(&name).iter().collect::<Vec<_>>(), [value]);
        }
        assert_eq!(headers.get(header::X_CONTENT_TYPE_OPTIONS), Some(&HeaderValue::from_static("nosniff")));
    }

    #[test]
    fn they_can_be_left_out() {
        let off = SecurityArgs { security_headers: false, ..args() };
        assert!(applied(&off, Scheme::Https, &[]).is_empty());
    }
}
