//! Prepares the head of a request for the upstream.

use std::{fmt::Write, net::IpAddr};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, request::Parts};

use super::{
    client::{Client, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO},
    header_filter::HeaderFilter,
};
use crate::protocol::Protocol;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Whether a request asks for an upgrade that the gateway forwards, which is WebSocket on HTTP/1.1 only. With `h2c`,
/// for instance, a client would get an HTTP connection to the service that bypasses all policies of the gateway. The
/// server does not check the framing of what follows such a request, so it must not have a body.
pub(crate) fn is_upgrade(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && !parts.headers.contains_key(header::TRANSFER_ENCODING)
        && parts.headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
        && has_token(&parts.headers, &header::UPGRADE, "websocket")
        && has_token(&parts.headers, &header::CONNECTION, "upgrade")
}

/// Whether a list header contains a token, ignoring case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut elements = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    elements.any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Removes what must not reach the upstream, and adds what describes the client.
pub(super) fn prepare(parts: &mut Parts, client: &Client, filter: &HeaderFilter) {
    let is_upgrade = is_upgrade(parts);
    let accepts_trailers = parts.headers.contains_key(header::TE) && has_token(&parts.headers, &header::TE, "trailers");
    let is_grpc = Protocol::of(parts).is_grpc();
    let headers = &mut parts.headers;
    filter.strip_request(headers);
    join_cookies(headers);
    // One reservation for all headers that are added below.
    headers.reserve(8);
    // The gateway sends 100 Continue itself, once it has an upstream for the body.
    headers.remove(header::EXPECT);
    if is_upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    } else if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        // HTTP/1.1 requires it (RFC 9110, section 10.1.4). gRPC uses HTTP/2, which has no Connection header.
        if !is_grpc {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    let host = client.host.clone().or_else(|| headers.get(header::HOST).cloned());
    let host = host.or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok());
    set_forwarding_headers(headers, client, host);
    let via = match parts.version {
        Version::HTTP_2 => HeaderValue::from_static("2.0 hedgerow"),
        Version::HTTP_10 => HeaderValue::from_static("1.0 hedgerow"),
        _ => HeaderValue::from_static("1.1 hedgerow"),
    };
    headers.append(header::VIA, via);
}

/// Joins cookies, which HTTP/2 may send in several fields, into one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = cookies.join(&b"; "[..]);
    insert(headers, header::COOKIE, joined.into());
}

/// Sets `x-forwarded-*` and `forwarded` (RFC 7239). The lists start with the client, as untrusted elements are dropped.
/// So even a service that naively takes the first address gets the right one.
fn set_forwarding_headers(headers: &mut HeaderMap, client: &Client, host: Option<HeaderValue>) {
    let host_text = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = client.port.unwrap_or_else(|| {
        let explicit = host_text.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        explicit.unwrap_or(client.scheme.default_port())
    });

    // One allocation for all values.
    let mut text = BytesMut::with_capacity(160);
    let _ = write!(text, "{}", client.address);
    for proxy in &client.proxies {
        let _ = write!(text, ", {proxy}");
    }
    insert(headers, FORWARDED_FOR, text.split().freeze());
    if !matches!(port, 80 | 443) {
        let _ = write!(text, "{port}");
    }
    let port = match port {
        80 => Bytes::from_static(b"80"),
        443 => Bytes::from_static(b"443"),
        _ => text.split().freeze(),
    };
    insert(headers, FORWARDED_PORT, port);
    write_node(&mut text, client.address);
    let _ = write!(text, ";proto={}", client.scheme.as_str());
    // These two would end the quoted string, and no valid host contains them.
    if !host_text.is_empty() && !host_text.contains(['"', '\\']) {
        let _ = write!(text, ";host=\"{host_text}\"");
    }
    for proxy in &client.proxies {
        text.extend_from_slice(b", ");
        write_node(&mut text, *proxy);
    }
    insert(headers, FORWARDED, text.freeze());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(client.scheme.as_str()));
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Writes a `for` parameter. An IPv6 address is in brackets and therefore quoted (RFC 7239, section 6).
fn write_node(text: &mut BytesMut, address: IpAddr) {
    let _ = match address {
        IpAddr::V4(address) => write!(text, "for={address}"),
        IpAddr::V6(address) => write!(text, "for=\"[{address}]\""),
    };
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: Bytes) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests;
