//! The headers that tell a service who sent a request, if it cannot verify tokens.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use identity::Caller;

use crate::auth::Denial;

const ISSUER: HeaderName = HeaderName::from_static("x-hedgerow-issuer");
const SUBJECT: HeaderName = HeaderName::from_static("x-hedgerow-subject");
const SCOPE: HeaderName = HeaderName::from_static("x-hedgerow-scope");
const CLIENT: HeaderName = HeaderName::from_static("x-hedgerow-client");

/// Replaces the token of a request by who sent it; by nothing if it is anonymous. The client's own headers of these
/// names are removed before.
///
/// Subjects are unique within their issuer only, so a gateway with several issuers needs `x-hedgerow-issuer`, too.
///
/// # Errors
/// Returns an error if a name does not consist of visible ASCII characters: what is cut off or reinterpreted on its way
/// could be the name of somebody else.
pub(super) fn set(headers: &mut HeaderMap, caller: Option<&Caller>) -> Result<(), Denial> {
    headers.remove(header::AUTHORIZATION);
    let Some(caller) = caller else { return Ok(()) };
    // One allocation for all values.
    let mut text = BytesMut::with_capacity(160);
    let mut insert = |name: HeaderName, value: &str| {
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Denial::Unnameable);
        }
        text.put_slice(value.as_bytes());
        put(headers, name, &mut text)
    };
    insert(ISSUER, caller.issuer())?;
    insert(SUBJECT, caller.subject())?;
    if let Some(client) = caller.client() {
        insert(CLIENT, client)?;
    }
    for (index, scope) in caller.scopes().iter().enumerate() {
        if index > 0 {
            text.put_u8(b' ');
        }
        text.put_slice(scope.as_bytes());
    }
    if text.is_empty() { Ok(()) } else { put(headers, SCOPE, &mut text) }
}

fn put(headers: &mut HeaderMap, name: HeaderName, text: &mut BytesMut) -> Result<(), Denial> {
    let value = HeaderValue::from_maybe_shared(text.split().freeze()).map_err(|_| Denial::Unnameable)?;
    headers.insert(name, value);
    Ok(())
}
