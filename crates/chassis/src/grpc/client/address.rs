//! The URL of a peer. Its host names resolve to any number of addresses, which change.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr};

use http::uri::Authority;
use tokio::net;

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
        let parse = |host: &str| {
            let authority: Authority = host.parse().map_err(|_| FORM)?;
            let whole = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port > 0);
            if whole && !host.contains('@') { Ok(authority) } else { Err(FORM) }
        };
        hosts.split(',').map(parse).collect::<Result<_, _>>().map(Self)
    }
}

impl PeerUrl {
    /// Resolves the hosts. Returns all addresses, each with its authority. Hosts that do not resolve are skipped.
    pub(super) async fn resolve(&self) -> BTreeMap<SocketAddr, Authority> {
        let mut resolved = BTreeMap::new();
        for authority in &self.0 {
            match net::lookup_host(authority.as_str()).await {
                Ok(addresses) => resolved.extend(addresses.map(|address| (address, authority.clone()))),
                Err(error) => tracing::debug!(%authority, %error, "cannot resolve host"),
            }
        }
        resolved
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
    async fn resolves_all_hosts_that_have_addresses() {
        let url: PeerUrl = "http://127.0.0.1:1,no-such-host.invalid:2,127.0.0.2:3".parse().expect("a URL");
        let found: Vec<_> = url.resolve().await.into_keys().map(|address| address.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:1", "127.0.0.2:3"]);
    }
}
