//! For which host a request is.

use http::{
    HeaderMap, HeaderValue, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use runtime::Problem;

/// Makes `Host` say what the request's authority says, where it has one (RFC 9112, section 3.2.2).
pub(super) fn check(parts: &mut Parts) -> Result<(), Problem> {
    if let Some(authority) = parts.uri.authority() {
        // That form of a target is for CONNECT alone (RFC 9112, section 3.2.3), and has no path.
        if parts.uri.scheme().is_none() && parts.version != Version::HTTP_2 {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the request's target has no path"));
        }
        let host = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        let host = HeaderValue::from_str(host).map_err(|_| no_host())?;
        parts.headers.insert(header::HOST, host);
        return Ok(());
    }
    match parts.headers.get(header::HOST) {
        Some(host) if is_host(host.as_bytes()) => Ok(()),
        Some(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "the request's host is none")),
        None if parts.version == Version::HTTP_10 => Ok(()),
        None => Err(no_host()),
    }
}

/// Whether a Host header has only characters that one may have (RFC 3986, section 3.2.2), and a port: services make
/// URLs of it.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
}

fn no_host() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "the request does not say for which host it is")
}

/// Names a host where the client did not: by HTTP/1.0 it may be left out, by HTTP/1.1 not.
pub(super) fn name_if_missing(headers: &mut HeaderMap, name: &str) -> Result<(), Problem> {
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_str(name).map_err(|_| no_host())?);
    }
    Ok(())
}

/// Makes a request one by HTTP/2, which has the host in its target.
pub(super) fn put_in_target(parts: &mut Parts) -> Result<(), Problem> {
    let host = parts.headers.remove(header::HOST).ok_or_else(no_host)?;
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(host.as_bytes()).path_and_query(path);
    parts.uri = uri.build().map_err(|_| no_host())?;
    Ok(())
}
