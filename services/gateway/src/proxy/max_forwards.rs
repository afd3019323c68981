//! Requests for the last server of a chain, which the gateway responds to itself instead of passing them on (RFC 9110,
//! section 7.6.2).

use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use runtime::Problem;

use super::response_body::ResponseBody;

const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Responds to OPTIONS if it is for the gateway, and counts the gateway as one of its hops otherwise. TRACE is refused:
/// it would show clients the headers that proxies add.
pub(super) fn respond(parts: &mut Parts) -> Option<Response<ResponseBody>> {
    let mut response = if parts.method == Method::TRACE {
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "TRACE is not supported");
        problem.into_http().map(ResponseBody::from)
    } else if parts.method == Method::OPTIONS && (parts.uri.path() == "*" || !forward(parts)) {
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    } else {
        return None;
    };
    response.headers_mut().insert(header::ALLOW, ALLOWED);
    Some(response)
}

/// Decrements Max-Forwards; returns whether the request may be passed on. A malformed value is ignored.
fn forward(parts: &mut Parts) -> bool {
    let Some(value) = parts.headers.get(header::MAX_FORWARDS) else { return true };
    let Some(digits) = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) else {
        return true;
    };
    if digits.is_empty() {
        return true;
    }
    // The largest value that is supported stands for all larger ones.
    let hops: u32 = digits.parse().unwrap_or(u32::MAX);
    let Some(left) = hops.checked_sub(1) else { return false };
    parts.headers.insert(header::MAX_FORWARDS, left.into());
    true
}
