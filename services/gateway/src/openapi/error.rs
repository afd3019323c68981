//! Why a service is missing from the merged document.

/// The reason why a service has no usable document. Its text is shown to readers of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("no ready endpoint")]
    NoEndpoint,
    /// No response in time, or not a valid one.
    #[error("no response")]
    NoResponse,
    /// A response other than 200 and 5xx.
    #[error("no document at /openapi.json")]
    NotFound,
    #[error("document is longer than 4 MiB")]
    TooLong,
    #[error("documents of all services together are longer than 16 MiB")]
    TooLongTogether,
    #[error("not an OpenAPI 3.0 or 3.1 document")]
    NotOpenApi,
    #[error("document has references that cannot be resolved")]
    Dangling,
    #[error("document has no path that is routed to this service")]
    NothingRouted,
}
