//! Rate limits per client and route, and per subject and route, by the generic cell rate algorithm (GCRA).

mod gcra;
mod state;

use std::{net::IpAddr, num::NonZeroU32, str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use runtime::{Problem, server::client_network};

use gcra::{Decision, Gcra};
use state::KeyedState;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

#[derive(Debug, Clone, clap::Args)]
pub(super) struct LimitArgs {
    /// Requests that a client may send to each route, such as `100/s`, `600/m` or `5000/h`. Each replica counts on its
    /// own. A client is an IPv4 address or an IPv6 /64. If unset, there is no limit
    #[arg(long, env, value_name = "RATE")]
    rate_limit: Option<Rate>,
    /// Burst size: how many requests may arrive at once. Defaults to N of the rate N/s, N/m or N/h
    #[arg(long, env, value_name = "N", requires = "rate_limit")]
    rate_limit_burst: Option<NonZeroU32>,
    /// Requests that the subject of a token may send to each route, from any address, in addition to the limit by
    /// address.
    /// If unset, there is no such limit
    #[arg(long, env, value_name = "RATE")]
    subject_rate_limit: Option<Rate>,
    /// Burst size for a subject. Defaults to N of the rate N/s, N/m or N/h
    #[arg(long, env, value_name = "N", requires = "subject_rate_limit")]
    subject_rate_limit_burst: Option<NonZeroU32>,
}

/// A number of requests per period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    requests: NonZeroU32,
    period: Duration,
}

/// Whom a quota is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// An address, or a network of IPv6.
    Client,
    /// The subject of a token.
    Subject,
}

/// Counts requests by client or subject, and route.
pub(super) struct Limiter {
    holder: Holder,
    gcra: Gcra,
    clients: KeyedState,
    policy: HeaderValue,
}

/// The state of a quota after a request.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    /// Whether the request is within the quota.
    pub(crate) allowed: bool,
    holder: Holder,
    decision: Decision,
    policy: HeaderValue,
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected N/s, N/m or N/h, with N at least 1";
        let (requests, unit) = text.split_once('/').ok_or(EXPECTED)?;
        let period = match unit.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(EXPECTED),
        };
        Ok(Self { requests: requests.trim().parse().map_err(|_| EXPECTED)?, period })
    }
}

impl Limiter {
    /// Limits clients, if there is a rate for them.
    pub(super) fn for_clients(args: &LimitArgs) -> Option<Self> {
        Some(Self::new(Holder::Client, args.rate_limit?, args.rate_limit_burst))
    }

    /// Limits subjects, if there is a rate for them.
    pub(super) fn for_subjects(args: &LimitArgs) -> Option<Self> {
        Some(Self::new(Holder::Subject, args.subject_rate_limit?, args.subject_rate_limit_burst))
    }

    fn new(holder: Holder, rate: Rate, burst: Option<NonZeroU32>) -> Self {
        let gcra = Gcra::new(rate.period / rate.requests.get(), burst.unwrap_or(rate.requests));
        let name = holder.name();
        let policy = format!("\"{name}\";q={};w={}", gcra.burst(), seconds(gcra.time_to_full()));
        Self {
            holder,
            gcra,
            clients: KeyedState::new(gcra.time_to_full()),
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("\"client\"")),
        }
    }

    /// Counts a request of a client.
    pub(super) fn take(&self, service: &str, route: &str, client: IpAddr) -> Quota {
        self.take_key(service, route, client_network(client))
    }

    /// Counts a request of the subject of an issuer.
    pub(super) fn take_subject(&self, service: &str, route: &str, issuer: &str, subject: &str) -> Quota {
        self.take_key(service, route, self.clients.subject(issuer, subject))
    }

    fn take_key(&self, service: &str, route: &str, key: u128) -> Quota {
        let decision = self.clients.update(service, route, key, |now, tat| self.gcra.take(now, tat));
        Quota { allowed: decision.allowed, holder: self.holder, decision, policy: self.policy.clone() }
    }
}

impl Holder {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Subject => "subject",
        }
    }
}

impl Quota {
    /// Sets the headers of draft-ietf-httpapi-ratelimit-headers-11 for the quotas that a request counts against: `r`
    /// requests may be sent at once, and the quota is full again after `t` seconds without a request.
    pub(crate) fn insert_headers<'a>(quotas: impl IntoIterator<Item = &'a Self>, headers: &mut HeaderMap) {
        for (index, quota) in quotas.into_iter().enumerate() {
            if index == 0 {
                headers.remove(RATE_LIMIT_POLICY);
                headers.remove(RATE_LIMIT);
            }
            quota.append_headers(headers);
        }
    }

    fn append_headers(&self, headers: &mut HeaderMap) {
        headers.append(RATE_LIMIT_POLICY, self.policy.clone());
        let name = self.holder.name();
        let limit = format!("\"{name}\";r={};t={}", self.decision.remaining, seconds(self.decision.full_after));
        if let Ok(limit) = HeaderValue::from_str(&limit) {
            headers.append(RATE_LIMIT, limit);
        }
        if !self.allowed {
            headers.insert(header::RETRY_AFTER, self.retry_after().into());
        }
    }

    /// The response to a request beyond the quota; [`Self::insert_headers`] adds its headers.
    pub(crate) fn problem(&self) -> Problem {
        let whose = match self.holder {
            Holder::Client => "from this address",
            Holder::Subject => "of this caller",
        };
        let detail = format!("too many requests {whose}; try again in {} s", self.retry_after());
        Problem::with_kind(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
    }

    /// In whole seconds. It is at least one, because a refused request always has to wait.
    fn retry_after(&self) -> u64 {
        seconds(self.decision.retry_after)
    }
}

/// Whole seconds, rounded up so that a client that waits that long is not too early.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(rate: &str, burst: Option<u32>) -> Limiter {
        let burst = burst.map(|burst| NonZeroU32::new(burst).expect("not zero"));
        Limiter::new(Holder::Client, rate.parse().expect("a rate"), burst)
    }

    fn headers(quota: &Quota) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        Quota::insert_headers([quota], &mut headers);
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().expect("text").to_owned());
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn rates_are_parsed() {
        let rate = |text: &str| text.parse::<Rate>().ok().map(|rate| (rate.requests.get(), rate.period.as_secs()));
        assert_eq!(rate("100/s"), Some((100, 1)));
        assert_eq!(rate(" 600 / m "), Some((600, 60)));
        assert_eq!(rate("5000/h"), Some((5000, 3600)));
        for bad in ["", "100", "0/s", "-1/s", "1.5/s", "100/d", "100/", "/s", "100/s/m", "4294967296/s"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let one = NonZeroU32::new(1);
        let args = LimitArgs {
            rate_limit: None,
            rate_limit_burst: one,
            subject_rate_limit: None,
            subject_rate_limit_burst: one,
        };
        assert!(Limiter::for_clients(&args).is_none() && Limiter::for_subjects(&args).is_none());
    }

    #[test]
    fn subjects_of_two_issuers_have_quotas_of_their_own() {
        let limiter = limiter("1/h", None);
        let take = |issuer, subject| limiter.take_subject("users", "/users", issuer, subject).allowed;
        assert!(take("https://a.example", "1") && !take("https://a.example", "1"));
        assert!(take("https://b.example", "1") && take("https://a.example", "2"));
    }

    #[test]
    fn headers_show_the_remaining_quota_and_when_to_retry() {
        let limiter = limiter("2/h", None);
        let client = "192.0.2.1".parse().expect("an address");
        let policy = ("ratelimit-policy".to_owned(), "\"client\";q=2;w=3600".to_owned());
        let limit = |value: &str| ("ratelimit".to_owned(), value.to_owned());
        let quotas: Vec<_> = (0..3).map(|_| limiter.take("users", "/users", client)).collect();
        assert_eq!(quotas.iter().map(|quota| quota.allowed).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(headers(&quotas[0]), [limit("\"client\";r=1;t=1800"), policy.clone()]);
        assert_eq!(headers(&quotas[1]), [limit("\"client\";r=0;t=3600"), policy.clone()]);
        let retry = ("retry-after".to_owned(), "1800".to_owned());
        assert_eq!(headers(&quotas[2]), [limit("\"client\";r=0;t=3600"), policy, retry]);
        assert_eq!(quotas[2].problem().status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(limiter.take("users", "/users", "192.0.2.2".parse().expect("an address")).allowed);
    }

    #[test]
    fn retry_after_is_at_least_a_second() {
        let limiter = limiter("1000/s", Some(1));
        let client = "192.0.2.1".parse().expect("an address");
        let refused = (0..1000).map(|_| limiter.take("users", "/users", client)).find(|quota| !quota.allowed);
        let lines = headers(&refused.expect("a refused request"));
        assert!(lines.contains(&("retry-after".to_owned(), "1".to_owned())), "{lines:?}");
        assert!(lines.contains(&("ratelimit-policy".to_owned(), "\"client\";q=1;w=1".to_owned())), "{lines:?}");
    }
}
