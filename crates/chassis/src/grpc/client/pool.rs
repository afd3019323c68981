//! The addresses of a peer: found by name again and again, and one of them picked for each call.

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
    address::PeerUrl,
    connection::{Failure, Sender, exchange},
    endpoint::{Endpoint, Signals, State},
};

/// How long the addresses found last are taken for all there are, how long they are even where some of them fail, and
/// how long a look may take.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(5);
const LOOK_UP_PAUSE: Duration = Duration::from_millis(500);
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses.
pub(super) struct Pool {
    peer: &'static str,
    members: Mutex<Members>,
    signals: Arc<Signals>,
    turn: AtomicUsize,
}

#[derive(Default)]
struct Members {
    /// Whether names were looked up yet.
    looked_up: bool,
    endpoints: Vec<Member>,
}

/// An address, and the task that keeps it connected. Once it is left out, calls in flight still end.
struct Member {
    endpoint: Arc<Endpoint>,
    _keeper: AbortOnDropHandle<()>,
}

/// What there is for a call.
enum Pick {
    Ready(Lease),
    /// There may soon be something.
    Wait,
    Nothing,
}

impl Pool {
    /// Starts to look up names and to connect.
    pub(super) fn start(peer: &'static str, url: PeerUrl) -> Arc<Self> {
        let signals = Arc::new(Signals { changed: watch::channel(()).0, failed: Notify::new() });
        let pool = Arc::new(Self { peer, members: Mutex::default(), signals, turn: AtomicUsize::new(0) });
        tokio::spawn(follow(pool.clone(), url));
        pool
    }

    /// Picks the address with the fewest calls in flight, in turn where several have as few, and another than `avoided`
    /// if it can. Waits while one is being connected; `None` where none is of use.
    pub(super) async fn lease(&self, avoided: Option<SocketAddr>) -> Option<Lease> {
        let mut changed = self.signals.changed.subscribe();
        loop {
            match self.pick(avoided) {
                Pick::Ready(lease) => return Some(lease),
                Pick::Nothing => return None,
                // Its sender is ours.
                Pick::Wait => changed.changed().await.ok()?,
            }
        }
    }

    fn pick(&self, avoided: Option<SocketAddr>) -> Pick {
        let members = self.members();
        let count = members.endpoints.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<((bool, usize), &Arc<Endpoint>, Sender)> = None;
        let mut wait = !members.looked_up;
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
            Some((_, endpoint, sender)) => Pick::Ready(Lease::new(endpoint.clone(), sender)),
            None if wait => Pick::Wait,
            None => Pick::Nothing,
        }
    }

    /// Whether there is another address for a call.
    pub(super) fn others_are_ready(&self, lease: &Lease) -> bool {
        let members = self.members();
        let mut others = members.endpoints.iter().filter(|member| member.endpoint.address != lease.address());
        others.any(|member| matches!(member.endpoint.state(), State::Ready(_)))
    }

    /// Takes the addresses that were found. Where none was, those known are kept: each tells by itself whether it is of
    /// use, and the name service may be what is away.
    fn update(&self, found: BTreeMap<SocketAddr, Authority>) {
        let mut members = self.members();
        members.looked_up = true;
        if !found.is_empty() {
            members.endpoints.retain(|member| found.contains_key(&member.endpoint.address));
            for (address, authority) in found {
                if members.endpoints.iter().all(|member| member.endpoint.address != address) {
                    let endpoint = Arc::new(Endpoint::new(address, authority));
                    let keeper = tokio::spawn(endpoint.clone().keep(self.peer, self.signals.clone()));
                    members.endpoints.push(Member { endpoint, _keeper: AbortOnDropHandle::new(keeper) });
                }
            }
        }
        drop(members);
        self.signals.changed.send_replace(());
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks names up as long as the process lives.
async fn follow(pool: Arc<Pool>, url: PeerUrl) {
    loop {
        let found = time::timeout(LOOK_UP_TIMEOUT, url.look_up()).await.unwrap_or_default();
        pool.update(found);
        let failed = async {
            time::sleep(LOOK_UP_PAUSE).await;
            pool.signals.failed.notified().await;
        };
        select! {
            () = time::sleep(LOOK_UP_INTERVAL) => {}
            () = failed => {}
        }
    }
}

/// An address that is used for a call.
pub(super) struct Lease {
    endpoint: Arc<Endpoint>,
    sender: Sender,
}

impl Lease {
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

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Collected<Bytes>>, Failure> {
        exchange(self.sender.clone(), request).await
    }

    /// Has the address looked at: it gave no answer.
    pub(super) fn doubt(&self) {
        self.endpoint.doubt();
    }
}

impl Drop for Lease {
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
    async fn follows_the_addresses_that_are_found_and_keeps_them_where_none_is() {
        let signals = Arc::new(Signals { changed: watch::channel(()).0, failed: Notify::new() });
        let pool = Pool { peer: "peer", members: Mutex::default(), signals, turn: AtomicUsize::new(0) };
        pool.update(found(&["127.0.0.1:1", "127.0.0.1:2"]));
        assert_eq!(known(&pool), ["127.0.0.1:1", "127.0.0.1:2"]);
        let kept = pool.members().endpoints[1].endpoint.clone();
        pool.update(found(&["127.0.0.1:2", "127.0.0.1:3"]));
        assert_eq!(known(&pool), ["127.0.0.1:2", "127.0.0.1:3"]);
        assert!(Arc::ptr_eq(&kept, &pool.members().endpoints[0].endpoint), "its connection is kept");
        pool.update(BTreeMap::new());
        assert_eq!(known(&pool), ["127.0.0.1:2", "127.0.0.1:3"]);
    }

    #[tokio::test]
    async fn a_call_waits_until_it_is_known_that_no_address_is_of_use() {
        // Nothing listens on these ports.
        let pool = Pool::start("peer", "http://127.0.0.1:1,127.0.0.2:1".parse().expect("a URL"));
        assert!(time::timeout(Duration::from_secs(10), pool.lease(None)).await.expect("in time").is_none());
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_of_no_use() {
        let pool = Pool::start("peer", "http://no-such-host.invalid:1".parse().expect("a URL"));
        assert!(time::timeout(Duration::from_secs(10), pool.lease(None)).await.expect("in time").is_none());
    }
}
