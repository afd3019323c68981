//! `HOST:PORT`, as in the URLs of services and peers.

use http::uri::Authority;

/// Parses `HOST:PORT`. The host is a name or an address, and the port is not 0. Anything more, such as a user, is
/// rejected.
#[must_use]
pub fn parse(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let is_complete = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port > 0);
    (is_complete && !text.contains('@')).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::parse;

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
