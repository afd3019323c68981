//! A limit on how often a client may use a route, by the generic cell rate algorithm (GCRA).

mod gcra;
mod memory;

use std::{net::IpAddr, num::NonZeroU32, str::FromStr, time::Duration};

use chassis::Problem;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use gcra::{Gcra, Verdict};
use memory::Memory;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
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
    pub(super) fn new(args: &Args) -> Option<Self> {
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
    /// Tells the client what is left, as draft-ietf-httpapi-ratelimit-headers-10 has it: `r` requests at once, and all
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

    /// In seconds; a wait of less than one would be read as none.
    fn retry_after(&self) -> u64 {
        seconds(self.verdict.next_after).max(1)
    }
}

/// Whole seconds, rounded up: who waits for less comes too early.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
