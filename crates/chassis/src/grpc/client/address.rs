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
    log: HostLog,
}

impl Hosts {
    pub(super) fn new(peer: &'static str, url: PeerUrl) -> Self {
        Self(url.0.into_iter().map(|authority| Host { authority, log: HostLog::new(peer) }).collect())
    }

    /// Resolves the hosts. Returns all addresses, each with its authority. Hosts that do not resolve are skipped.
    pub(super) async fn resolve(&mut self) -> BTreeMap<SocketAddr, Authority> {
        join_all(self.0.iter_mut().map(Host::look_up)).await.into_iter().flatten().collect()
    }
}

impl Host {
    async fn look_up(&mut self) -> Vec<(SocketAddr, Authority)> {
        let found = time::timeout(LOOKUP_TIMEOUT, net::lookup_host(self.authority.as_str())).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        self.log.log(&self.authority, &found);
        found.into_iter().flatten().map(|address| (address, self.authority.clone())).collect()
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
}
