//! The head of a request as a service gets it.

use std::{fmt::Write, net::IpAddr};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, request::Parts};

use super::{
    client::{Client, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO},
    names::Names,
};
use crate::grpc::Protocol;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Whether a request asks for another protocol that is passed on: WebSocket is, on HTTP/1.1. Others are not: with `h2c`
/// a client would have an HTTP connection to the service that no rule of the gateway applies to.
pub(crate) fn is_upgrade(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && has_token(&parts.headers, &header::UPGRADE, "websocket")
        && has_token(&parts.headers, &header::CONNECTION, "upgrade")
}

/// Whether a list header has an element.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut elements = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    elements.any(|element| element.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Makes it so.
pub(super) fn prepare(parts: &mut Parts, client: &Client, names: &Names) {
    let is_upgrade = is_upgrade(parts);
    let takes_trailers = parts.headers.contains_key(header::TE) && has_token(&parts.headers, &header::TE, "trailers");
    let is_grpc = Protocol::of(parts).is_grpc();
    let headers = &mut parts.headers;
    names.strip_request(headers);
    // At once for all that is added.
    headers.reserve(8);
    // The gateway itself answers it, with 100, once it has a service for the body.
    headers.remove(header::EXPECT);
    if is_upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    } else if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        // HTTP/1.1 asks for it (RFC 9110, section 10.1.4), HTTP/2, which gRPC goes by, has no such header.
        if !is_grpc {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    let host = client.host.clone().or_else(|| headers.get(header::HOST).cloned());
    let host = host.or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok());
    tell_of_client(headers, client, host);
    let via = match parts.version {
        Version::HTTP_2 => HeaderValue::from_static("2.0 hedgerow"),
        Version::HTTP_10 => HeaderValue::from_static("1.0 hedgerow"),
        _ => HeaderValue::from_static("1.1 hedgerow"),
    };
    headers.append(header::VIA, via);
}

/// Sets `x-forwarded-*` and `forwarded` (RFC 7239). They begin with the client, as no more than the trusted part of
/// what came is kept: a service that takes the first address is right, too.
fn tell_of_client(headers: &mut HeaderMap, client: &Client, host: Option<HeaderValue>) {
    let host_text = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = client.port.unwrap_or_else(|| {
        let named = host_text.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        named.unwrap_or(client.scheme.port())
    });

    // One allocation for all of them.
    let mut text = BytesMut::with_capacity(160);
    let _ = write!(text, "{}", client.address);
    for hop in &client.hops {
        let _ = write!(text, ", {hop}");
    }
    set(headers, FORWARDED_FOR, text.split().freeze());
    if !matches!(port, 80 | 443) {
        let _ = write!(text, "{port}");
    }
    let port = match port {
        80 => Bytes::from_static(b"80"),
        443 => Bytes::from_static(b"443"),
        _ => text.split().freeze(),
    };
    set(headers, FORWARDED_PORT, port);
    write_node(&mut text, client.address);
    let _ = write!(text, ";proto={}", client.scheme.as_str());
    // Within quotes only these two would end the value, and no host has them.
    if !host_text.is_empty() && !host_text.contains(['"', '\\']) {
        let _ = write!(text, ";host=\"{host_text}\"");
    }
    for hop in &client.hops {
        text.extend_from_slice(b", ");
        write_node(&mut text, *hop);
    }
    set(headers, FORWARDED, text.freeze());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(client.scheme.as_str()));
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// Writes `for=` an address: IPv6 in brackets, and so in quotes (RFC 7239, section 6).
fn write_node(text: &mut BytesMut, address: IpAddr) {
    let _ = match address {
        IpAddr::V4(address) => write!(text, "for={address}"),
        IpAddr::V6(address) => write!(text, "for=\"[{address}]\""),
    };
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Bytes) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests;
