//! Determines the host that a request is for.

use http::{
    HeaderMap, HeaderValue, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use runtime::{Problem, authority::is_host};

/// Validates the Host header, or replaces it with the authority of the request target if there is one (RFC 9112,
/// section 3.2.2). Services build URLs from it.
pub(super) fn normalize(parts: &mut Parts) -> Result<(), Problem> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (sent, other) = (hosts.next(), hosts.next());
    if other.is_some() {
        return Err(invalid_host());
    }
    if let Some(authority) = parts.uri.authority() {
        // An authority alone is the target of CONNECT (RFC 9112, section 3.2.3). It has no path to route by.
        if parts.uri.scheme().is_none() && parts.version != Version::HTTP_2 {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the request target has no path"));
        }
        let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        // Over HTTP/2 the two must be the same (RFC 9113, section 8.3.1).
        let differs = |sent: &HeaderValue| !sent.as_bytes().eq_ignore_ascii_case(host.as_bytes());
        if !is_host(host.as_bytes()) || (parts.version == Version::HTTP_2 && sent.is_some_and(differs)) {
            return Err(invalid_host());
        }
        let host = HeaderValue::from_str(host).map_err(|_| invalid_host())?;
        parts.headers.insert(header::HOST, host);
        return Ok(());
    }
    match sent {
        Some(host) if is_host(host.as_bytes()) => Ok(()),
        Some(_) => Err(invalid_host()),
        None if parts.version == Version::HTTP_10 => Ok(()),
        None => Err(missing_host()),
    }
}

fn invalid_host() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid Host header")
}

fn missing_host() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "the request has no Host header")
}

/// Sets the Host header if the client sent none. HTTP/1.0 allows that, HTTP/1.1, which the service speaks, does not.
pub(super) fn set_default(headers: &mut HeaderMap, name: &str) -> Result<(), Problem> {
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_str(name).map_err(|_| missing_host())?);
    }
    Ok(())
}

/// Moves the host to the request target, where HTTP/2 has it.
pub(super) fn move_to_target(parts: &mut Parts) -> Result<(), Problem> {
    let host = parts.headers.remove(header::HOST).ok_or_else(missing_host)?;
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(host.as_bytes()).path_and_query(path);
    parts.uri = uri.build().map_err(|_| missing_host())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn version() -> impl Strategy<Value = Version> {
        prop_oneof![Just(Version::HTTP_10), Just(Version::HTTP_11), Just(Version::HTTP_2)]
    }

    fn host() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "[a-z]{1,5}(:[0-9]{0,6})?".prop_map(String::into_bytes),
            r#"[a-z0-9@:/?#\[\]\\\"<> ,;%.]{0,12}"#.prop_map(String::into_bytes),
            vec(any::<u8>(), 0..8),
        ]
    }

    fn request(version: Version, target: &[u8], hosts: &[Vec<u8>]) -> Option<Parts> {
        let mut parts = Request::builder().version(version).uri(target).body(()).ok()?.into_parts().0;
        for host in hosts {
            parts.headers.append(header::HOST, HeaderValue::from_bytes(host).ok()?);
        }
        Some(parts)
    }

    #[test]
    fn two_host_headers_are_refused() {
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            let mut parts = request(version, b"/", &[b"a".to_vec(), b"b".to_vec()]).expect("a request");
            assert!(normalize(&mut parts).is_err(), "{version:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_request_has_one_valid_host(
            version in version(),
            authority in option::of(host()),
            hosts in vec(host(), 0..3),
        ) {
            let target = authority.map_or(b"/path".to_vec(), |host| [b"http://", &host[..], b"/path"].concat());
            let Some(mut parts) = request(version, &target, &hosts) else { return Ok(()) };
            if normalize(&mut parts).is_err() {
                return Ok(());
            }
            let found: Vec<_> = parts.headers.get_all(header::HOST).iter().cloned().collect();
            prop_assert!(found.len() == 1 || (found.is_empty() && version == Version::HTTP_10), "{found:?}");
            prop_assert!(found.iter().all(|host| is_host(host.as_bytes())), "{found:?}");
            if let (Some(authority), [host]) = (parts.uri.authority(), &found[..]) {
                prop_assert!(authority.as_str().as_bytes().ends_with(host.as_bytes()));
            }
            if move_to_target(&mut parts).is_ok() {
                let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
                prop_assert_eq!(authority, found.first().map(HeaderValue::as_bytes));
            }
        }
    }
}
