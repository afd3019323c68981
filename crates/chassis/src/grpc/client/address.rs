//! The URL of a peer. Its host names resolve to any number of addresses, which change.

use std::{collections::BTreeMap, io, net::SocketAddr, str::FromStr, time::Duration};

use futures_util::future::join_all;
use http::uri::Authority;
use runtime::authority;
use tokio::{net, time};

use super::availability::HostLog;

/// How long the lookup of a host may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// `http://HOST:PORT`, or several hosts separated by commas: `http://HOST:PORT,HOST:PORT`. A host is a name or an
/// address. All addresses of a name are used, so in a cluster it should name a headless Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerUrl(Vec<Authority>);

impl FromStr for PeerUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "must be a URL such as http://inventory-headless:50051";
        let hosts = text.strip_prefix("http://").ok_or(FORM)?;
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        hosts.split(',').map(authority::parse).collect::<Option<_>>().map(Self).ok_or(FORM)
    }
}

/// The hosts of a peer.
pub(super) struct Hosts(Vec<Host>);

struct Host {
    authority: Authority,
    /// The addresses of the last lookup that succeeded. DNS may be down, and each endpoint detects its own failure.
    addresses: Vec<SocketAddr>,
    log: HostLog,
}

impl Hosts {
    pub(super) fn new(peer: &'static str, url: PeerUrl) -> Self {
        let host = |authority| Host { authority, addresses: Vec::new(), log: HostLog::new(peer) };
        Self(url.0.into_iter().map(host).collect())
    }

    /// Resolves the hosts. Returns all addresses, each with its authority. A host that does not resolve keeps its last
    /// addresses.
    pub(super) async fn resolve(&mut self) -> BTreeMap<SocketAddr, Authority> {
        join_all(self.0.iter_mut().map(Host::look_up)).await;
        let pairs = |host: &Host| {
            let authority = host.authority.clone();
            host.addresses.clone().into_iter().map(move |address| (address, authority.clone()))
        };
        self.0.iter().flat_map(pairs).collect()
    }
}

impl Host {
    async fn look_up(&mut self) {
        let found = time::timeout(LOOKUP_TIMEOUT, net::lookup_host(self.authority.as_str())).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.log.log(&self.authority, &found);
        if let Ok(found) = found {
            self.addresses = found.collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_one_or_more_hosts_with_ports() {
        for good in ["http://a:1", "http://a.b.svc.cluster.local:50051/", "http://127.0.0.1:1,[::1]:2"] {
            assert!(good.parse::<PeerUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "a:1",
            "https://a:1",
            "http://",
            "http://a",
            "http://a:0",
            "http://a:1,",
            "http://u@a:1",
            "http://a:1/x",
        ] {
            assert!(bad.parse::<PeerUrl>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn all_hosts_that_have_addresses_are_resolved() {
        let url: PeerUrl = "http://127.0.0.1:1,no-such-host.invalid:2,127.0.0.2:3".parse().expect("a URL");
        let found = Hosts::new("peer", url).resolve().await;
        let found: Vec<_> = found.into_keys().map(|address| address.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:1", "127.0.0.2:3"]);
    }

    #[tokio::test]
    async fn a_host_that_stops_resolving_keeps_its_addresses() {
        let url: PeerUrl = "http://127.0.0.1:1,127.0.0.2:2".parse().expect("a URL");
        let mut hosts = Hosts::new("peer", url);
        let both = hosts.resolve().await.into_keys().collect::<Vec<_>>();
        hosts.0[1].authority = Authority::from_static("no-such-host.invalid:2");
        assert_eq!(hosts.resolve().await.into_keys().collect::<Vec<_>>(), both);
        hosts.0[1].authority = Authority::from_static("127.0.0.3:2");
        let moved = hosts.resolve().await.into_keys().map(|address| address.to_string()).collect::<Vec<_>>();
        assert_eq!(moved, ["127.0.0.1:1", "127.0.0.3:2"]);
    }
}
