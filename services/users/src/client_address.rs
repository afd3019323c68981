//! Where a request comes from.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use axum::extract::FromRequestParts;
use http::{HeaderMap, HeaderName, header, request::Parts};

/// The gateway replaces what the client sent: the first element is the client's address.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The maximum length of a `User-Agent` that is stored, in characters.
const MAX_AGENT: usize = 256;

/// Where a request comes from. What the gateway reports is good enough to limit and to record attempts, and is not used
/// to allow anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// `None` if the request did not pass the gateway, or the header is malformed.
    address: Option<IpAddr>,
    agent: String,
}

impl Origin {
    pub(crate) fn new(headers: &HeaderMap) -> Self {
        let address =
            headers.get(FORWARDED_FOR).and_then(|value| parse(value.to_str().ok()?.split(',').next()?.trim()));
        let agent = headers.get(header::USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let agent = agent.iter().flat_map(|agent| agent.chars()).filter(|c| !c.is_control()).take(MAX_AGENT).collect();
        Self { address, agent }
    }

    pub(crate) fn address(&self) -> Option<String> {
        self.address.map(|address| address.to_string())
    }

    /// The network that counts as one client: an IPv4 address, or the /64 of an IPv6 address.
    pub(crate) fn network(&self) -> Option<String> {
        self.address.map(|address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }

    pub(crate) fn agent(&self) -> &str {
        &self.agent
    }
}

/// Parses an address with or without a port, and for IPv6 with or without brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let address = address.or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

impl<S: Sync> FromRequestParts<S> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::new(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn network(forwarded: &[u8]) -> Option<String> {
        let value = HeaderValue::from_bytes(forwarded).expect("a value");
        Origin::new(&HeaderMap::from_iter([(FORWARDED_FOR, value)])).network()
    }

    #[test]
    fn the_first_forwarded_address_is_the_client() {
        for (forwarded, expected) in [
            ("203.0.113.1", "203.0.113.1"),
            ("203.0.113.1, 10.0.0.1", "203.0.113.1"),
            ("203.0.113.1:4711", "203.0.113.1"),
            ("::ffff:203.0.113.1", "203.0.113.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2::7]:80", "2001:db8:1:2::/64"),
            ("[2001:db8:1:2::7]", "2001:db8:1:2::/64"),
        ] {
            assert_eq!(network(forwarded.as_bytes()).as_deref(), Some(expected), "{forwarded}");
        }
    }

    #[test]
    fn a_malformed_address_is_unknown() {
        for forwarded in [&b""[..], b"unknown", b", 203.0.113.1", b"203.0.113", b"\xff", b"203.0.113.1;"] {
            assert_eq!(network(forwarded), None);
        }
        assert_eq!(Origin::new(&HeaderMap::new()).network(), None);
    }

    #[test]
    fn an_agent_is_cut_off() {
        let value = HeaderValue::from_str(&"x".repeat(1000)).expect("a value");
        assert_eq!(Origin::new(&HeaderMap::from_iter([(header::USER_AGENT, value)])).agent().len(), MAX_AGENT);
    }
}
