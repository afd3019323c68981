//! The endpoints of a peer. Its hosts are resolved periodically, and one endpoint is picked for each call.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, uri::Authority};
use http_body_util::{Collected, Full};
use tokio::{
    select,
    sync::{Notify, watch},
    time,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    address::{Hosts, PeerUrl},
    connection::{CallError, Sender, exchange},
    endpoint::{Endpoint, Signals, State},
};

/// How often the hosts are resolved.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest time between two resolutions, even if endpoints fail.
const RESOLVE_PAUSE: Duration = Duration::from_millis(500);

/// The endpoints of a peer.
pub(super) struct Pool {
    peer: &'static str,
    members: Mutex<Members>,
    signals: Arc<Signals>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Members {
    /// Whether the hosts have been resolved at least once.
    resolved: bool,
    endpoints: Vec<Member>,
}

/// An endpoint and the task that keeps it connected. If it is removed, its calls in flight still finish.
struct Member {
    endpoint: Arc<Endpoint>,
    _keeper: AbortOnDropHandle<()>,
}

/// The endpoint for a call.
enum Pick {
    Ready(Checkout),
    /// None is ready, but one is connecting.
    Wait,
    /// All have failed, or there are none.
    Nothing,
}

impl Pool {
    /// Starts to resolve the hosts and to connect.
    pub(super) fn start(peer: &'static str, url: PeerUrl) -> Arc<Self> {
        let signals = Arc::new(Signals { changed: watch::channel(()).0, failed: Notify::new() });
        let pool = Arc::new(Self { peer, members: Mutex::default(), signals, turn: AtomicUsize::new(0) });
        tokio::spawn(follow(pool.clone(), Hosts::new(peer, url)));
        pool
    }

    /// Picks the endpoint with the fewest calls in flight, round-robin between equals, and not `avoided` if there is
    /// another. Waits while an endpoint is connecting. Returns `None` if all of them have failed.
    pub(super) async fn checkout(&self, avoided: Option<SocketAddr>) -> Option<Checkout> {
        let mut changed = self.signals.changed.subscribe();
        loop {
            match self.pick(avoided) {
                Pick::Ready(checkout) => return Some(checkout),
                Pick::Nothing => return None,
                // The channel stays open: this pool owns its sender.
                Pick::Wait => changed.changed().await.ok()?,
            }
        }
    }

    fn pick(&self, avoided: Option<SocketAddr>) -> Pick {
        let members = self.members();
        let count = members.endpoints.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<((bool, usize), &Arc<Endpoint>, Sender)> = None;
        let mut wait = !members.resolved;
        for index in 0..count {
            let endpoint = &members.endpoints[(first + index) % count].endpoint;
            match endpoint.state() {
                State::Ready(sender) => {
                    let rank = (Some(endpoint.address) == avoided, endpoint.in_flight());
                    if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                        best = Some((rank, endpoint, sender));
                    }
                }
                State::Connecting => wait = true,
                State::Failed => {}
            }
        }
        match best {
            Some((_, endpoint, sender)) => Pick::Ready(Checkout::new(endpoint.clone(), sender)),
            None if wait => Pick::Wait,
            None => Pick::Nothing,
        }
    }

    /// Returns whether another endpoint is ready.
    pub(super) fn others_are_ready(&self, checkout: &Checkout) -> bool {
        let members = self.members();
        let mut others = members.endpoints.iter().filter(|member| member.endpoint.address != checkout.address());
        others.any(|member| matches!(member.endpoint.state(), State::Ready(_)))
    }

    /// Updates the endpoints to the resolved addresses.
    fn update(&self, found: BTreeMap<SocketAddr, Authority>) {
        let mut members = self.members();
        members.resolved = true;
        members.endpoints.retain(|member| found.contains_key(&member.endpoint.address));
        for (address, authority) in found {
            if members.endpoints.iter().all(|member| member.endpoint.address != address) {
                let endpoint = Arc::new(Endpoint::new(address, authority));
                let keeper = tokio::spawn(endpoint.clone().keep(self.peer, self.signals.clone()));
                members.endpoints.push(Member { endpoint, _keeper: AbortOnDropHandle::new(keeper) });
            }
        }
        drop(members);
        self.signals.changed.send_replace(());
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves the hosts for as long as the process runs.
async fn follow(pool: Arc<Pool>, mut hosts: Hosts) {
    loop {
        pool.update(hosts.resolve().await);
        let failed = async {
            time::sleep(RESOLVE_PAUSE).await;
            pool.signals.failed.notified().await;
        };
        select! {
            () = time::sleep(RESOLVE_INTERVAL) => {}
            () = failed => {}
        }
    }
}

/// An endpoint in use for a call.
pub(super) struct Checkout {
    endpoint: Arc<Endpoint>,
    sender: Sender,
}

impl Checkout {
    fn new(endpoint: Arc<Endpoint>, sender: Sender) -> Self {
        endpoint.enter();
        Self { endpoint, sender }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.endpoint.authority
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Collected<Bytes>>, CallError> {
        exchange(self.sender.clone(), request).await
    }

    /// Requests a health check of the endpoint, because it did not respond.
    pub(super) fn check(&self) {
        self.endpoint.check();
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.endpoint.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> BTreeMap<SocketAddr, Authority> {
        let parse = |text: &&str| (text.parse().expect("an address"), text.parse().expect("an authority"));
        addresses.iter().map(parse).collect()
    }

    fn known(pool: &Pool) -> Vec<String> {
        pool.members().endpoints.iter().map(|member| member.endpoint.address.to_string()).collect()
    }

    #[tokio::test]
    async fn endpoints_follow_the_resolved_addresses() {
        let signals = Arc::new(Signals { changed: watch::channel(()).0, failed: Notify::new() });
        let pool = Pool { peer: "peer", members: Mutex::default(), signals, turn: AtomicUsize::new(0) };
        pool.update(found(&["127.0.0.1:1", "127.0.0.1:2"]));
        assert_eq!(known(&pool), ["127.0.0.1:1", "127.0.0.1:2"]);
        let kept = pool.members().endpoints[1].endpoint.clone();
        pool.update(found(&["127.0.0.1:2", "127.0.0.1:3"]));
        assert_eq!(known(&pool), ["127.0.0.1:2", "127.0.0.1:3"]);
        assert!(Arc::ptr_eq(&kept, &pool.members().endpoints[0].endpoint), "its connection is kept");
    }

    #[tokio::test]
    async fn a_call_waits_until_all_endpoints_have_failed() {
        // Nothing listens on these ports.
        let pool = Pool::start("peer", "http://127.0.0.1:1,127.0.0.2:1".parse().expect("a URL"));
        assert!(time::timeout(Duration::from_secs(10), pool.checkout(None)).await.expect("in time").is_none());
    }

    #[tokio::test]
    async fn a_host_without_addresses_is_unavailable() {
        let pool = Pool::start("peer", "http://no-such-host.invalid:1".parse().expect("a URL"));
        assert!(time::timeout(Duration::from_secs(10), pool.checkout(None)).await.expect("in time").is_none());
    }
}
