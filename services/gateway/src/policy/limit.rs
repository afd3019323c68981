//! A limit on how often a client may use a route, by the generic cell rate algorithm (GCRA).

mod gcra;
mod memory;

use std::{net::IpAddr, num::NonZeroU32, str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use runtime::Problem;

use gcra::{Gcra, Verdict};
use memory::Memory;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

#[derive(Debug, Clone, clap::Args)]
pub(super) struct LimitArgs {
    /// How many requests a client may send to each route, such as `100/s`, `600/m` or `5000/h`, counted by each replica
    /// for itself; left out: no limit. A client is an address, of IPv6 a /64
    #[arg(long, env, value_name = "RATE")]
    rate_limit: Option<Rate>,
    /// How many of them may come at once; left out: as many as in the rate's time
    #[arg(long, env, value_name = "N", requires = "rate_limit")]
    rate_limit_burst: Option<NonZeroU32>,
}

/// A number of requests in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    requests: NonZeroU32,
    time: Duration,
}

/// Counts requests by client and route.
pub(super) struct Limiter {
    gcra: Gcra,
    memory: Memory,
    policy: HeaderValue,
}

/// What a request did to its client's quota.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    /// Whether the request may be served.
    pub(crate) allowed: bool,
    verdict: Verdict,
    policy: HeaderValue,
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "is no rate: N/s, N/m or N/h is expected, with N from 1";
        let (requests, unit) = text.split_once('/').ok_or(WRONG)?;
        let time = match unit.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(WRONG),
        };
        Ok(Self { requests: requests.trim().parse().map_err(|_| WRONG)?, time })
    }
}

impl Limiter {
    pub(super) fn new(args: &LimitArgs) -> Option<Self> {
        let rate = args.rate_limit?;
        let gcra = Gcra::new(rate.time / rate.requests.get(), args.rate_limit_burst.unwrap_or(rate.requests));
        let policy = format!("\"client\";q={};w={}", gcra.burst(), seconds(gcra.whole()));
        Some(Self {
            gcra,
            memory: Memory::new(gcra.whole()),
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("\"client\"")),
        })
    }

    pub(super) fn take(&self, service: &str, route: &str, client: IpAddr) -> Quota {
        let verdict = self.memory.update(service, route, client, |now, cell| self.gcra.take(now, cell));
        Quota { allowed: verdict.allowed, verdict, policy: self.policy.clone() }
    }
}

impl Quota {
    /// Tells the client what is left, as draft-ietf-httpapi-ratelimit-headers-11 has it: `r` requests at once, and all
    /// that the policy allows again after `t` seconds without one.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(RATE_LIMIT_POLICY, self.policy.clone());
        let limit = format!("\"client\";r={};t={}", self.verdict.remaining, seconds(self.verdict.whole_after));
        if let Ok(limit) = HeaderValue::from_str(&limit) {
            headers.insert(RATE_LIMIT, limit);
        }
        if !self.allowed {
            headers.insert(header::RETRY_AFTER, self.retry_after().into());
        }
    }

    /// The answer to a request that is one too many; [`Self::write`] adds its headers.
    pub(crate) fn problem(&self) -> Problem {
        let detail = format!("this address has sent too many requests; try again in {} s", self.retry_after());
        Problem::of_kind(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
    }

    /// In seconds: at least one, as whoever is refused has to wait for some time.
    fn retry_after(&self) -> u64 {
        seconds(self.verdict.next_after)
    }
}

/// Whole seconds, rounded up: who waits for less comes too early.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(rate: &str, burst: Option<u32>) -> Limiter {
        let burst = burst.map(|burst| NonZeroU32::new(burst).expect("not zero"));
        let args = LimitArgs { rate_limit: Some(rate.parse().expect("a rate")), rate_limit_burst: burst };
        Limiter::new(&args).expect("a limiter")
    }

    fn headers(quota: &Quota) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        quota.write(&mut headers);
        let line =
            |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), value.to_str().expect("text").to_owned());
        let mut lines: Vec<_> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn rates_are_read() {
        let rate = |text: &str| text.parse::<Rate>().ok().map(|rate| (rate.requests.get(), rate.time.as_secs()));
        assert_eq!(rate("100/s"), Some((100, 1)));
        assert_eq!(rate(" 600 / m "), Some((600, 60)));
        assert_eq!(rate("5000/h"), Some((5000, 3600)));
        for bad in ["", "100", "0/s", "-1/s", "1.5/s", "100/d", "100/", "/s", "100/s/m", "4294967296/s"] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        assert!(Limiter::new(&LimitArgs { rate_limit: None, rate_limit_burst: NonZeroU32::new(1) }).is_none());
    }

    #[test]
    fn a_client_is_told_what_is_left_and_when_to_come_again() {
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
    fn a_wait_is_at_least_a_second() {
        let limiter = limiter("1000/s", Some(1));
        let client = "192.0.2.1".parse().expect("an address");
        let refused = (0..1000).map(|_| limiter.take("users", "/users", client)).find(|quota| !quota.allowed);
        let lines = headers(&refused.expect("one is refused"));
        assert!(lines.contains(&("retry-after".to_owned(), "1".to_owned())), "{lines:?}");
        assert!(lines.contains(&("ratelimit-policy".to_owned(), "\"client\";q=1;w=1".to_owned())), "{lines:?}");
    }
}
