//! What is logged about a peer: one line if one of its hosts or addresses has been unavailable for 5 s, and one when it
//! is back. Shorter outages are not logged: services start in any order, and restart.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use http::uri::Authority;
use tokio::time::Instant;

/// How long attempts must have failed before that is worth a warning.
const WARN_AFTER: Duration = Duration::from_secs(5);

/// Logs whether the addresses of a host can be found. The first success is not logged.
pub(super) struct HostLog {
    peer: &'static str,
    changes: Changes,
}

/// Logs whether an address can be used.
pub(super) struct AddressLog {
    peer: &'static str,
    address: SocketAddr,
    changes: Changes,
}

impl HostLog {
    pub(super) fn new(peer: &'static str) -> Self {
        Self { peer, changes: Changes { logged: Some(true), failing_since: None } }
    }

    /// Logs the result of a lookup, if it is news.
    pub(super) fn log<T>(&mut self, host: &Authority, result: &Result<T, impl Display>) {
        let (peer, is_news) = (self.peer, self.changes.update(result.is_ok(), Instant::now()));
        match result {
            Ok(_) if is_news => tracing::info!(peer, %host, "peer resolves"),
            Err(reason) if is_news => tracing::warn!(peer, %host, %reason, "peer does not resolve"),
            Err(reason) => tracing::debug!(peer, %host, %reason, "lookup failed"),
            Ok(_) => {}
        }
    }
}

impl AddressLog {
    pub(super) fn new(peer: &'static str, address: SocketAddr) -> Self {
        Self { peer, address, changes: Changes::default() }
    }

    /// Logs the result of a connection attempt, if it is news.
    pub(super) fn log<T>(&mut self, result: &Result<T, String>) {
        let (peer, address, is_news) = (self.peer, self.address, self.changes.update(result.is_ok(), Instant::now()));
        match result {
            Ok(_) if is_news => tracing::info!(peer, %address, "peer connected"),
            Err(reason) if is_news => tracing::warn!(peer, %address, reason, "peer unavailable"),
            Err(reason) => tracing::debug!(peer, %address, reason, "connection attempt failed"),
            Ok(_) => {}
        }
    }
}

/// Decides which results are worth a line: changes, but no short outages.
#[derive(Default)]
struct Changes {
    /// The state that was logged last.
    logged: Option<bool>,
    failing_since: Option<Instant>,
}

impl Changes {
    /// Adds the result of an attempt; returns whether to log it.
    fn update(&mut self, is_ok: bool, now: Instant) -> bool {
        let is_settled = if is_ok {
            self.failing_since = None;
            true
        } else {
            now.duration_since(*self.failing_since.get_or_insert(now)) >= WARN_AFTER
        };
        is_settled && self.logged.replace(is_ok) != Some(is_ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each attempt is logged, given its time in seconds and its result.
    fn logged(mut changes: Changes, attempts: &[(u64, bool)]) -> Vec<bool> {
        let start = Instant::now();
        let attempts = attempts.iter();
        attempts.map(|(second, ok)| changes.update(*ok, start + Duration::from_secs(*second))).collect()
    }

    #[test]
    fn a_peer_that_starts_later_causes_no_warning() {
        assert_eq!(
            logged(Changes::default(), &[(0, false), (1, false), (4, false), (5, true), (60, true)]),
            [false, false, false, true, false]
        );
    }

    #[test]
    fn a_peer_that_stays_unavailable_causes_one_warning() {
        let attempts = [(0, false), (5, false), (6, false), (7, true)];
        assert_eq!(logged(Changes::default(), &attempts), [false, true, false, true]);
        let attempts = [(0, true), (10, false), (14, false), (15, false)];
        assert_eq!(logged(Changes::default(), &attempts), [true, false, false, true]);
    }

    #[test]
    fn a_short_outage_is_not_logged() {
        let attempts = [(0, true), (10, false), (12, true), (20, false), (24, false)];
        assert_eq!(logged(Changes::default(), &attempts), [true, false, false, false, false]);
    }

    #[test]
    fn a_host_causes_a_line_only_if_it_did_not_resolve() {
        let host = || HostLog::new("peer").changes;
        assert_eq!(logged(host(), &[(0, true), (5, true)]), [false, false]);
        let attempts = [(0, false), (5, false), (10, false), (15, true), (20, true)];
        assert_eq!(logged(host(), &attempts), [false, true, false, true, false]);
    }
}
