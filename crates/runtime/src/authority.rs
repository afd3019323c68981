//! `HOST:PORT`, as in the URLs of services and peers, and in Host headers.

use std::net::Ipv6Addr;

use http::uri::Authority;

/// Parses `HOST:PORT`. The host is a name or an address, and the port is not 0. Anything more, such as a user, is
/// rejected.
#[must_use]
pub fn parse(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let is_complete = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port > 0);
    (is_complete && !text.contains('@')).then_some(authority)
}

/// Returns whether a text is a host, with or without a port, as in a Host header (RFC 9110, section 7.2, and RFC 3986,
/// section 3.2): a name, an IPv4 address, or an IPv6 address in brackets.
#[must_use]
pub fn is_host(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else { return false };
    let (is_valid, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (is_name(name.as_bytes()), port)
    };
    is_valid && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Whether a text is a `reg-name` that is not empty. IPv4 addresses are such names too.
fn is_name(mut name: &[u8]) -> bool {
    if name.is_empty() {
        return false;
    }
    loop {
        name = match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            _ => return false,
        };
    }
}

/// Whether a text is a port. The standard allows an empty one.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && (text.is_empty() || text.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for good in
            ["a", "A.b-c_d", "a:", "a:80", "a:65535", "127.0.0.1:1", "[::1]", "[2001:db8::1]:443", "a%20b", "~!$&"]
        {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["", ":80", "a:b", "a:65536", "a:+1", "a:1:2", "::1", "[", "[]", "[::1", "[a]", "[::1]x", "[::1]80", "a]b"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
        for bad in ["a%zz", "a%2", "%", "u@a", "a/b", "a b", "a?", "a#", "a\\b", "a\"b", "a\u{e9}"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        for good in ["a:1", "a.b.svc.cluster.local:50051", "127.0.0.1:65535", "[::1]:2"] {
            assert_eq!(parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "a", "a:", ":1", "a:0", "a:65536", "a:1/", "a:1/x", "u@a:1", "a b:1", "a:1,b:2"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
