//! The results of the requests.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::template::Template;
use crate::client::{Failure, Kind};

/// The maximum number of failures per second that are printed. All of them are counted.
const MAX_SHOWN: usize = 10;

/// A line of output.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    /// The requests of one second.
    Progress {
        /// Seconds since the start.
        seconds: f64,
        /// How many ended, with or without success.
        requests: u64,
        /// How many of them failed.
        failed: u64,
        /// The 99th percentile of the latency of successful requests.
        p99_ms: f64,
    },
    /// One failed request.
    Failure {
        /// When it failed, in seconds since the start.
        seconds: f64,
        /// Its method and URL.
        request: String,
        /// The failure.
        #[serde(flatten)]
        failure: Failure,
    },
    /// The whole load.
    Summary(Summary),
}

/// The results of all requests.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The duration of the load.
    pub seconds: f64,
    /// The number of requests, including those that could not be sent.
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// How many failed.
    pub failed: u64,
    /// The number of failures by kind.
    pub failures: BTreeMap<Kind, u64>,
    /// The number of connections that were opened.
    pub connections: u64,
    /// The median latency of successful requests, from their scheduled time.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The maximum.
    pub max_ms: f64,
}

pub(super) struct Tally {
    start: Instant,
    failures: BTreeMap<Kind, u64>,
    connections: u64,
    /// The latencies of successful requests before this second.
    latencies: Vec<Duration>,
    second: Second,
}

/// The results since the last progress line.
#[derive(Default)]
struct Second {
    latencies: Vec<Duration>,
    failed: u64,
    shown: Vec<Line>,
}

impl Tally {
    pub(super) fn new(start: Instant) -> Self {
        let failures = Kind::ALL.map(|kind| (kind, 0)).into();
        Self { start, failures, connections: 0, latencies: Vec::new(), second: Second::default() }
    }

    pub(super) fn record(&mut self, template: &Template, due: Instant, opened: u64, result: Result<(), Failure>) {
        self.connections += opened;
        let second = &mut self.second;
        match result {
            Ok(()) => second.latencies.push(due.elapsed()),
            Err(failure) => {
                *self.failures.entry(failure.kind).or_default() += 1;
                second.failed += 1;
                if second.shown.len() < MAX_SHOWN {
                    let seconds = seconds(self.start.elapsed());
                    second.shown.push(Line::Failure { seconds, request: template.name(), failure });
                }
            }
        }
    }

    /// Ends a second. Returns its failures, then its progress line.
    pub(super) fn progress(&mut self) -> Vec<Line> {
        let Second { mut latencies, failed, shown: mut lines } = std::mem::take(&mut self.second);
        latencies.sort_unstable();
        lines.push(Line::Progress {
            seconds: seconds(self.start.elapsed()),
            requests: latencies.len() as u64 + failed,
            failed,
            p99_ms: milliseconds(percentile(&latencies, 99)),
        });
        self.latencies.extend(latencies);
        lines
    }

    /// The summary. Must be called after the last [`progress`](Self::progress).
    pub(super) fn summary(&mut self) -> Summary {
        self.latencies.sort_unstable();
        let failed = self.failures.values().sum();
        let (elapsed, requests) = (self.start.elapsed(), self.latencies.len() as u64 + failed);
        Summary {
            seconds: seconds(elapsed),
            requests,
            rate: rate(requests, elapsed),
            failed,
            failures: self.failures.clone(),
            connections: self.connections,
            p50_ms: milliseconds(percentile(&self.latencies, 50)),
            p99_ms: milliseconds(percentile(&self.latencies, 99)),
            max_ms: milliseconds(percentile(&self.latencies, 100)),
        }
    }
}

/// The nearest-rank percentile, or 0 if there are no values.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn seconds(time: Duration) -> f64 {
    thousandths(time.as_millis())
}

fn milliseconds(time: Duration) -> f64 {
    thousandths(time.as_micros())
}

/// Divides, so that the number prints with three decimals.
fn thousandths(count: u128) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "no load has 2^53 requests")]
fn rate(requests: u64, time: Duration) -> f64 {
    (requests as f64 / time.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_use_the_nearest_rank() {
        let latencies: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let of = |percent| percentile(&latencies, percent).as_millis();
        assert_eq!((of(50), of(99), of(100)), (100, 198, 200));
        assert_eq!(percentile(&latencies[..1], 99), latencies[0]);
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
