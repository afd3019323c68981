//! The token of the user whose request is handled, for the calls that its handler makes.

use http::{HeaderName, HeaderValue};
use tokio::task_local;

/// The header with the token of the user for whom a service calls another one, in the form of `Authorization`.
pub(crate) const ON_BEHALF_OF: HeaderName = HeaderName::from_static("hedgerow-on-behalf-of");

task_local! {
    static USER_TOKEN: Option<HeaderValue>;
}

/// Runs the handler of a request. The calls that it makes are on behalf of the user with this token, if there is one.
pub(crate) fn scope<F: Future>(token: Option<HeaderValue>, handler: F) -> impl Future<Output = F::Output> {
    USER_TOKEN.scope(token, handler)
}

/// Returns the token of the user whose request is handled.
pub(crate) fn user_token() -> Option<HeaderValue> {
    USER_TOKEN.try_with(Clone::clone).ok().flatten()
}
