//! Headers and trailers of responses.

use super::{super::known::FORBIDDEN_TRAILERS, *};

#[test]
fn trailers_are_filtered_like_headers() {
    let mut trailers = headers(&[
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("server", "uvicorn"),
        ("grpc-status", "0"),
        ("x-checksum", "1"),
        ("etag", "\"1\""),
    ]);
    trailers
        .extend(FORBIDDEN_TRAILERS.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))));
    strip_trailers(&mut trailers);
    assert_eq!(trailers, headers(&[("grpc-status", "0"), ("x-checksum", "1"), ("etag", "\"1\"")]));
}

#[test]
fn hop_by_hop_and_software_headers_of_responses_are_dropped() {
    let mut response = headers(&[
        ("connection", "close, x-hop"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("proxy-authenticate", "Basic"),
        ("server", "uvicorn"),
        ("x-powered-by", "Express"),
        ("x-hop", "1"),
        ("etag", "\"1\""),
        ("x-user-id", "1"),
        ("trailer", "grpc-status"),
    ]);
    strip_response(StatusCode::OK, &mut response);
    assert_eq!(response, headers(&[("etag", "\"1\""), ("x-user-id", "1"), ("trailer", "grpc-status")]));
}

#[test]
fn an_upgrade_keeps_its_headers() {
    let lines = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")];
    let mut response = headers(&lines);
    strip_response(StatusCode::SWITCHING_PROTOCOLS, &mut response);
    assert_eq!(response.len(), 3);
    assert_eq!(response.get(header::CONNECTION), Some(&HeaderValue::from_static("upgrade")));
    strip_response(StatusCode::OK, &mut response);
    assert_eq!(response, headers(&lines[2..]));
    let mut required = headers(&[("connection", "Upgrade"), ("upgrade", "TLS/1.0, HTTP/1.1")]);
    strip_response(StatusCode::UPGRADE_REQUIRED, &mut required);
    assert_eq!(required, headers(&[("upgrade", "TLS/1.0, HTTP/1.1"), ("connection", "upgrade")]));
}
