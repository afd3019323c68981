//! What became of the requests.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::Template;
use crate::client::{Failure, Kind};

/// Most failures of a second that get a line; all are counted.
const SHOWN: usize = 10;

/// A line of output.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    /// One second's requests.
    Progress {
        /// Since the start.
        seconds: f64,
        /// How many ended, however.
        requests: u64,
        /// How many of them failed.
        failed: u64,
        /// The latency that 99 % of those answered did not exceed.
        p99_ms: f64,
    },
    /// One failed request.
    Failure {
        /// When it failed, since the start.
        seconds: f64,
        /// Its method and URL.
        request: String,
        /// How.
        #[serde(flatten)]
        failure: Failure,
    },
    /// All of it.
    Summary(Summary),
}

/// What became of all requests.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// How long it took.
    pub seconds: f64,
    /// How many were sent, or could not be.
    pub requests: u64,
    /// How many a second.
    pub rate: f64,
    /// How many failed.
    pub failed: u64,
    /// The same by kind.
    pub failures: BTreeMap<Kind, u64>,
    /// How many connections were opened.
    pub connections: u64,
    /// The latency that half of those answered did not exceed, from the moment they were due.
    pub p50_ms: f64,
    /// The same for 99 %.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

pub(super) struct Tally {
    start: Instant,
    failures: BTreeMap<Kind, u64>,
    connections: u64,
    /// Of those answered before this second.
    latencies: Vec<Duration>,
    second: Second,
}

/// What has happened since the last line of progress.
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

    pub(super) fn record(&mut self, template: &Template, due: Instant, opened: u64, ended: Result<(), Failure>) {
        self.connections += opened;
        let second = &mut self.second;
        match ended {
            Ok(()) => second.latencies.push(due.elapsed()),
            Err(failure) => {
                *self.failures.entry(failure.kind).or_default() += 1;
                second.failed += 1;
                if second.shown.len() < SHOWN {
                    let seconds = seconds(self.start.elapsed());
                    second.shown.push(Line::Failure { seconds, request: template.name(), failure });
                }
            }
        }
    }

    /// Ends a second: its failures, then its progress.
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

    /// To be called after the last [`progress`](Self::progress).
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

/// The nearest-rank percentile; 0 of nothing.
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

/// By a division, so that it prints with three decimals.
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
    fn percentiles_are_of_the_nearest_rank() {
        let latencies: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let of = |percent| percentile(&latencies, percent).as_millis();
        assert_eq!((of(50), of(99), of(100)), (100, 198, 200));
        assert_eq!(percentile(&latencies[..1], 99), latencies[0]);
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
