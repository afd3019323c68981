//! Which paths belong to the gateway itself, and which to a service.

use crate::discovery::Service;

/// The path of the merged document.
pub(super) const DOCUMENT: &str = "/openapi.json";

/// The path of the page.
pub(super) const PAGE: &str = "/docs";

/// The prefix that makes a path the gateway's own.
pub(super) fn own_prefix(path: &str) -> Option<&'static str> {
    match path {
        "/" => Some("/"),
        DOCUMENT => Some(DOCUMENT),
        _ => is_under(PAGE, path).then_some(PAGE),
    }
}

/// Whether a service claims a path by a prefix that is at least as long as the gateway's own.
pub(super) fn is_claimed(services: &[Service], path: &str, own: &str) -> bool {
    let mut prefixes = services.iter().flat_map(|service| &service.paths);
    prefixes.any(|prefix| prefix.len() >= own.len() && is_under(prefix, path))
}

/// The name of the service that a path is routed to: the one with the longest matching prefix.
pub(super) fn owner<'a>(services: &'a [Service], path: &str) -> Option<&'a str> {
    let prefixes = services.iter().flat_map(|service| service.paths.iter().map(move |prefix| (prefix, service)));
    let matching = prefixes.filter(|(prefix, _)| is_under(prefix, path));
    matching.max_by_key(|(prefix, _)| prefix.len()).map(|(_, service)| service.name.as_str())
}

/// Whether a path equals a prefix or continues it by whole segments.
fn is_under(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
