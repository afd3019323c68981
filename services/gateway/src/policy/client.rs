//! Identifies the client of a request: the TCP peer or, behind trusted proxies, the client that they report.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use runtime::{authority::is_host, server::client_network};

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The scheme that the client used. It differs from the gateway's own if a proxy in front terminates TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// The client of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// Its address. IPv4-mapped IPv6 addresses are converted to IPv4.
    pub(crate) address: IpAddr,
    /// The scheme that it used.
    pub(crate) scheme: Scheme,
    /// The trusted proxies that the request has passed, from the client on; empty if the client connected directly.
    pub(super) proxies: Vec<IpAddr>,
    /// The host that it requested, if a trusted proxy reports it.
    pub(super) host: Option<HeaderValue>,
    /// The port that it connected to, if a trusted proxy reports it.
    pub(super) port: Option<u16>,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The default port of the scheme.
    pub(super) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // Some proxies report the scheme of a WebSocket.
        if text.eq_ignore_ascii_case("https") || text.eq_ignore_ascii_case("wss") {
            Some(Self::Https)
        } else if text.eq_ignore_ascii_case("http") || text.eq_ignore_ascii_case("ws") {
            Some(Self::Http)
        } else {
            None
        }
    }
}

impl Client {
    /// The network that counts as one client.
    pub(crate) fn network(&self) -> u128 {
        client_network(self.address)
    }

    /// Identifies the client behind `hops` trusted proxies, the nearest of which is the peer.
    ///
    /// Each proxy appends the address of its own peer to X-Forwarded-For, so the client is the `hops`-th address from
    /// the right. Envoy (`xff_num_trusted_hops`) and Express (`trust proxy`) count the same way. If there are fewer
    /// elements, or one of them is not an address, the request has bypassed the proxies: all forwarding headers are
    /// ignored, and the peer is the client.
    pub(super) fn new(hops: usize, peer: SocketAddr, headers: &HeaderMap) -> Self {
        let peer = peer.ip().to_canonical();
        let direct = Self { address: peer, scheme: Scheme::Http, proxies: Vec::new(), host: None, port: None };
        if hops == 0 {
            return direct;
        }
        let mut proxies = Vec::with_capacity(hops + 1);
        for element in from_right(headers, &FORWARDED_FOR).take(hops) {
            match parse_address(element) {
                Some(address) => proxies.push(address),
                None => return direct,
            }
        }
        if proxies.len() < hops {
            return direct;
        }
        let Some(address) = proxies.pop() else { return direct };
        proxies.reverse();
        proxies.push(peer);
        let scheme = reported(hops, headers, &FORWARDED_PROTO).and_then(Scheme::parse);
        let host = reported(hops, headers, &FORWARDED_HOST).filter(|host| is_host(host.as_bytes()));
        let port = reported(hops, headers, &FORWARDED_PORT).and_then(|port| port.parse().ok());
        Self {
            address,
            scheme: scheme.unwrap_or(direct.scheme),
            proxies,
            host: host.and_then(|host| HeaderValue::from_str(host).ok()),
            port,
        }
    }
}

/// The elements of a list header from the last to the first, over all its lines. A line that is not visible ASCII
/// counts as one invalid element.
fn from_right<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')).map(str::trim)
}

/// The element of a list header that describes the client. Most proxies replace these lists instead of appending to
/// them, so in a list that is too short the first element counts.
fn reported<'a>(hops: usize, headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    from_right(headers, name).take(hops).last().filter(|element| !element.is_empty())
}

/// Parses an address of X-Forwarded-For: with or without a port, and for IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
        };
        lines.iter().map(line).collect()
    }

    fn client(hops: usize, peer: &str, lines: &[(&'static str, &str)]) -> Client {
        Client::new(hops, peer.parse().expect("an address"), &headers(lines))
    }

    #[test]
    fn the_client_is_the_nth_address_from_the_right_or_the_peer() {
        const PEER: &str = "10.0.0.9";
        let cases: &[(usize, &[&str], &str)] = &[
            (0, &[], PEER),
            (0, &["203.0.113.1"], PEER),
            (1, &["203.0.113.1"], "203.0.113.1"),
            (1, &["198.51.100.7, 203.0.113.1"], "203.0.113.1"),
            (2, &["198.51.100.7, 203.0.113.1, 10.0.0.8"], "203.0.113.1"),
            (2, &["198.51.100.7", "203.0.113.1", " 10.0.0.8 "], "203.0.113.1"),
            (2, &["198.51.100.7,203.0.113.1", "10.0.0.8"], "203.0.113.1"),
            // The request has bypassed some of the proxies.
            (1, &[], PEER),
            (2, &["203.0.113.1"], PEER),
            (3, &["203.0.113.1, 10.0.0.8"], PEER),
            // Elements left of the trusted ones may be anything.
            (1, &["junk, 203.0.113.1"], "203.0.113.1"),
            (1, &["\u{e9}", "203.0.113.1"], "203.0.113.1"),
            // Trusted elements must be addresses.
            (1, &["junk"], PEER),
            (1, &["203.0.113.1, "], PEER),
            (1, &["203.0.113.1", "\u{e9}"], PEER),
            (1, &["unknown"], PEER),
            (1, &["_hidden"], PEER),
            (1, &["203.0.113.1.5"], PEER),
            (1, &["0x7f.1"], PEER),
            (2, &["203.0.113.1, junk"], PEER),
            // Formats.
            (1, &["203.0.113.1:4711"], "203.0.113.1"),
            (1, &["2001:db8::1"], "2001:db8::1"),
            (1, &["[2001:db8::1]"], "2001:db8::1"),
            (1, &["[2001:db8::1]:4711"], "2001:db8::1"),
            (1, &["::ffff:203.0.113.1"], "203.0.113.1"),
        ];
        for (hops, lines, expected) in cases {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let client = client(*hops, "10.0.0.9:1234", &lines);
            assert_eq!(client.address.to_string(), *expected, "{hops} hops, {lines:?}");
            let trusted = *expected != PEER;
            assert_eq!(client.proxies.last().map(ToString::to_string), trusted.then(|| PEER.to_owned()), "{lines:?}");
        }
    }

    #[test]
    fn an_ipv4_mapped_peer_is_an_ipv4_client() {
        assert_eq!(client(0, "[::ffff:10.0.0.9]:1234", &[]).address.to_string(), "10.0.0.9");
    }

    #[test]
    fn scheme_host_and_port_are_trusted_only_with_the_address() {
        let lines = [
            ("x-forwarded-for", "203.0.113.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop.example:8443"),
            ("x-forwarded-port", "8443"),
        ];
        let trusted = client(1, "10.0.0.9:1234", &lines);
        assert_eq!(trusted.scheme, Scheme::Https);
        assert_eq!(trusted.host, Some(HeaderValue::from_static("shop.example:8443")));
        assert_eq!(trusted.port, Some(8443));
        for (hops, lines) in [(0, &lines[..]), (1, &lines[1..]), (2, &lines[..])] {
            let direct = client(hops, "10.0.0.9:1234", lines);
            assert_eq!((direct.scheme, direct.host, direct.port), (Scheme::Http, None, None), "{hops} {lines:?}");
        }
    }

    #[test]
    fn schemes_and_hosts_also_count_from_the_right() {
        let cases: &[(usize, &str, Scheme)] = &[
            (1, "https", Scheme::Https),
            (1, "HTTPS", Scheme::Https),
            (1, "wss", Scheme::Https),
            (1, "https, http", Scheme::Http),
            (2, "https, http", Scheme::Https),
            // One of the proxies has replaced the list.
            (2, "https", Scheme::Https),
            (1, "gopher", Scheme::Http),
            (1, "", Scheme::Http),
        ];
        for (hops, value, expected) in cases {
            let lines = [("x-forwarded-for", "203.0.113.1, 10.0.0.8"), ("x-forwarded-proto", value)];
            assert_eq!(client(*hops, "10.0.0.9:1234", &lines).scheme, *expected, "{hops} hops, {value}");
        }
        for bad in ["a b", "user@host", "", "host/path", "host\u{e9}", ":80", "a:b", "[::1", "a%zz"] {
            let lines = [("x-forwarded-for", "203.0.113.1"), ("x-forwarded-host", bad), ("x-forwarded-port", "99999")];
            let client = client(1, "10.0.0.9:1234", &lines);
            assert_eq!((client.host, client.port), (None, None), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_a_client_sends_itself_does_not_change_its_address(
            forged in "[0-9a-f.:, \\[\\]a-z\"]{0,40}",
            as_line_of_its_own in any::<bool>(),
            address in any::<IpAddr>(),
            proxies in proptest::collection::vec(any::<IpAddr>(), 0..3),
        ) {
            let trusted = [&[address][..], &proxies].concat();
            let appended = trusted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let joined = format!("{forged}, {appended}");
            let lines = [("x-forwarded-for", &*forged), ("x-forwarded-for", &*appended)];
            let joined = [("x-forwarded-for", &*joined)];
            let lines = if as_line_of_its_own { &lines[..] } else { &joined[..] };
            let client = client(trusted.len(), "10.0.0.9:1234", lines);
            prop_assert_eq!(client.address, address.to_canonical());
            let peer: IpAddr = "10.0.0.9".parse().expect("an address");
            let expected: Vec<_> = proxies.iter().map(IpAddr::to_canonical).chain([peer]).collect();
            prop_assert_eq!(client.proxies, expected);
        }

        #[test]
        fn any_header_yields_all_addresses_or_the_peer(
            hops in 0_usize..4,
            lines in proptest::collection::vec(("[a-z]", proptest::collection::vec(any::<u8>(), 0..30)), 0..6),
        ) {
            let names = [FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO];
            let line = |(name, value): (String, Vec<u8>)| {
                let name = names[usize::from(name.as_bytes()[0]) % names.len()].clone();
                HeaderValue::from_bytes(&value).ok().map(|value| (name, value))
            };
            let headers: HeaderMap = lines.into_iter().filter_map(line).collect();
            let client = Client::new(hops, "10.0.0.9:1234".parse().expect("an address"), &headers);
            if client.proxies.is_empty() {
                prop_assert_eq!(client.address.to_string(), "10.0.0.9");
                prop_assert_eq!((client.scheme, client.host, client.port), (Scheme::Http, None, None));
            } else {
                prop_assert_eq!(client.proxies.len(), hops);
                prop_assert!(client.host.is_none_or(|host| host.to_str().is_ok_and(|host| !host.contains(['@', ',']))));
            }
        }

        #[test]
        fn addresses_are_parsed_in_every_format(address in any::<IpAddr>(), port in any::<u16>()) {
            let canonical = Some(address.to_canonical());
            prop_assert_eq!(parse_address(&address.to_string()), canonical);
            prop_assert_eq!(parse_address(&SocketAddr::new(address, port).to_string()), canonical);
            if address.is_ipv6() {
                prop_assert_eq!(parse_address(&format!("[{address}]")), canonical);
            }
        }
    }
}
