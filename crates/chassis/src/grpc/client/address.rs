//! Where a peer is: names that stand for any number of addresses, which change.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr};

use http::uri::Authority;
use tokio::net;

/// `http://HOST:PORT`, or several with commas between: `http://HOST:PORT,HOST:PORT`. A host is a name or an address; all
/// addresses of a name are used, so in a cluster it is the headless Service's.
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
    /// All addresses, each with the name it was found under. One that has none now is left out.
    pub(super) async fn look_up(&self) -> BTreeMap<SocketAddr, Authority> {
        let mut found = BTreeMap::new();
        for authority in &self.0 {
            match net::lookup_host(authority.as_str()).await {
                Ok(addresses) => found.extend(addresses.map(|address| (address, authority.clone()))),
                Err(error) => tracing::debug!(%authority, %error, "the name has no address"),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_one_or_several_hosts_with_their_ports() {
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
    async fn finds_the_addresses_of_all_hosts() {
        let url: PeerUrl = "http://127.0.0.1:1,no-such-host.invalid:2,127.0.0.2:3".parse().expect("a URL");
        let found: Vec<_> = url.look_up().await.into_keys().map(|address| address.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:1", "127.0.0.2:3"]);
    }
}
