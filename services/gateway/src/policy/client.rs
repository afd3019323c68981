//! Who sent a request: the TCP peer, or, behind proxies that are trusted, the one whom they say they had it from.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, uri::Authority};

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The scheme that the client used, which is not the gateway's own where a proxy in front ends TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// The sender of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// Its address; IPv4 where it is IPv4 written as IPv6.
    pub(crate) address: IpAddr,
    /// The scheme it used.
    pub(crate) scheme: Scheme,
    /// The trusted proxies after it, in the order of the request's way; none where the client itself is connected.
    pub(super) hops: Vec<IpAddr>,
    /// The host it asked for, where a trusted proxy says so.
    pub(super) host: Option<HeaderValue>,
    /// The port it asked at, where a trusted proxy says so.
    pub(super) port: Option<u16>,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL of this scheme means when it names none.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // Some proxies name the scheme of a WebSocket.
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
    /// With `hops` trusted proxies, the nearest of which is the peer, the client is the one that the farthest of them
    /// was called from: the `hops`-th address from the right of X-Forwarded-For, as each of them appends one. That is
    /// how Envoy (`xff_num_trusted_hops`) and Express (`trust proxy`) count, too. Where there are fewer, or any of those
    /// is no address, the request did not come that way: none of it is believed, and the client is the peer.
    pub(super) fn new(hops: usize, peer: SocketAddr, headers: &HeaderMap) -> Self {
        let peer = peer.ip().to_canonical();
        let direct = Self { address: peer, scheme: Scheme::Http, hops: Vec::new(), host: None, port: None };
        if hops == 0 {
            return direct;
        }
        let mut trusted = Vec::with_capacity(hops + 1);
        for element in from_right(headers, &FORWARDED_FOR).take(hops) {
            match parse_address(element) {
                Some(address) => trusted.push(address),
                None => return direct,
            }
        }
        if trusted.len() < hops {
            return direct;
        }
        let Some(address) = trusted.pop() else { return direct };
        trusted.reverse();
        trusted.push(peer);
        let scheme = nth(hops, headers, &FORWARDED_PROTO).and_then(Scheme::parse);
        let host = nth(hops, headers, &FORWARDED_HOST).filter(|host| host.parse::<Authority>().is_ok_and(is_plain));
        let port = nth(hops, headers, &FORWARDED_PORT).and_then(|port| port.parse().ok());
        Self {
            address,
            scheme: scheme.unwrap_or(direct.scheme),
            hops: trusted,
            host: host.and_then(|host| HeaderValue::from_str(host).ok()),
            port,
        }
    }
}

/// The elements of a list header, the last one first, over all its lines. A line that is not ASCII is one bad element.
fn from_right<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().rev().flat_map(|line| line.to_str().unwrap_or("?").rsplit(',')).map(str::trim)
}

/// What a list header says of the client. Proxies append to these lists or replace them, and mostly do the latter, so
/// of a list that is shorter than the way its first element counts.
fn nth<'a>(hops: usize, headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    from_right(headers, name).take(hops).last().filter(|element| !element.is_empty())
}

/// An address as it is found in X-Forwarded-For: with or without a port, IPv6 with or without brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// Whether an authority is that of a Host header: without user information.
#[expect(clippy::needless_pass_by_value, reason = "a predicate for `is_ok_and`")]
fn is_plain(authority: Authority) -> bool {
    !authority.as_str().contains('@') && !authority.host().is_empty()
}

#[cfg(test)]
mod tests {
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
    fn the_client_is_the_nth_address_from_the_right_and_the_peer_wherever_that_is_none() {
        const PEER: &str = "10.0.0.9";
        let cases: &[(usize, &[&str], &str)] = &[
            (0, &[], PEER),
            (0, &["203.0.113.1"], PEER),
            (1, &["203.0.113.1"], "203.0.113.1"),
            (1, &["198.51.100.7, 203.0.113.1"], "203.0.113.1"),
            (2, &["198.51.100.7, 203.0.113.1, 10.0.0.8"], "203.0.113.1"),
            (2, &["198.51.100.7", "203.0.113.1", " 10.0.0.8 "], "203.0.113.1"),
            (2, &["198.51.100.7,203.0.113.1", "10.0.0.8"], "203.0.113.1"),
            // It came by another way than all the proxies.
            (1, &[], PEER),
            (2, &["203.0.113.1"], PEER),
            (3, &["203.0.113.1, 10.0.0.8"], PEER),
            // What is left of the trusted part may be anything.
            (1, &["junk, 203.0.113.1"], "203.0.113.1"),
            (1, &["\u{e9}", "203.0.113.1"], "203.0.113.1"),
            // What is in it may not.
            (1, &["junk"], PEER),
            (1, &["203.0.113.1, "], PEER),
            (1, &["203.0.113.1", "\u{e9}"], PEER),
            (1, &["unknown"], PEER),
            (1, &["_hidden"], PEER),
            (1, &["203.0.113.1.5"], PEER),
            (1, &["0x7f.1"], PEER),
            (2, &["203.0.113.1, junk"], PEER),
            // Forms.
            (1, &["203.0.113.1:4711"], "203.0.113.1"),
            (1, &["2001:db8::1"], "2001:db8::1"),
            (1, &["[2001:db8::1]"], "2001:db8::1"),
            (1, &["[2001:db8::1]:4711"], "2001:db8::1"),
            (1, &["::ffff:203.0.113.1"], "203.0.113.1"),
        ];
        for (hops, lines, expected) in cases {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let found = client(*hops, "10.0.0.9:1234", &lines);
            assert_eq!(found.address.to_string(), *expected, "{hops} hops, {lines:?}");
            let trusted = *expected != PEER;
            assert_eq!(found.hops.last().map(ToString::to_string), trusted.then(|| PEER.to_owned()), "{lines:?}");
        }
    }

    #[test]
    fn a_peer_of_ipv4_in_ipv6_is_the_same_client() {
        assert_eq!(client(0, "[::ffff:10.0.0.9]:1234", &[]).address.to_string(), "10.0.0.9");
    }

    #[test]
    fn scheme_host_and_port_are_believed_only_with_the_address() {
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
    fn lists_of_schemes_and_hosts_count_from_the_right_too() {
        let cases: &[(usize, &str, Scheme)] = &[
            (1, "https", Scheme::Https),
            (1, "HTTPS", Scheme::Https),
            (1, "wss", Scheme::Https),
            (1, "https, http", Scheme::Http),
            (2, "https, http", Scheme::Https),
            // Replaced on the way, by the last proxy or for the whole of it.
            (2, "https", Scheme::Https),
            (1, "gopher", Scheme::Http),
            (1, "", Scheme::Http),
        ];
        for (hops, value, expected) in cases {
            let lines = [("x-forwarded-for", "203.0.113.1, 10.0.0.8"), ("x-forwarded-proto", value)];
            assert_eq!(client(*hops, "10.0.0.9:1234", &lines).scheme, *expected, "{hops} hops, {value}");
        }
        for bad in ["a b", "user@host", "", "host/path", "host\u{e9}", ":80"] {
            let lines = [("x-forwarded-for", "203.0.113.1"), ("x-forwarded-host", bad), ("x-forwarded-port", "99999")];
            let found = client(1, "10.0.0.9:1234", &lines);
            assert_eq!((found.host, found.port), (None, None), "{bad}");
        }
    }
}
