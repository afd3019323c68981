//! Finds the service that a path belongs to: the one with the longest prefix of whole segments. `discovery` learns the
//! prefixes, from annotations or flags, and [`route_updater`](super::route_updater) puts them into the table.
//!
//! Paths are neither decoded nor normalized, so `/%75sers` does not match `/users`. That makes routing safe: the
//! gateway and the service cannot read different things into one path. [`dot_segments`](super::dot_segments)
//! says which paths are refused.

use std::{collections::HashMap, sync::Arc};

use super::upstream::Upstream;
use crate::metrics::RouteMetrics;

/// A path prefix and its service.
pub(crate) struct Route {
    /// The prefix, such as `/users` or `/`; also a label of metrics.
    pub(crate) path: Box<str>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) metrics: RouteMetrics,
}

#[derive(Default)]
pub(crate) struct RouteTable {
    /// Keyed by prefix without trailing slashes.
    routes: HashMap<Box<str>, Arc<Route>>,
    /// The largest number of segments in a prefix.
    max_depth: usize,
}

impl RouteTable {
    pub(super) fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        let by_prefix = |route: Arc<Route>| (route.path.trim_end_matches('/').into(), route);
        let routes: HashMap<Box<str>, _> = routes.into_iter().map(by_prefix).collect();
        let max_depth = routes.keys().map(|prefix| prefix.matches('/').count()).max().unwrap_or_default();
        Self { routes, max_depth }
    }

    /// Finds the route of a path without query.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        // Segments beyond the deepest prefix cannot matter.
        let end = path.match_indices('/').nth(self.max_depth).map_or(path.len(), |(at, _)| at);
        let mut prefix = &path[..end];
        loop {
            if let Some(route) = self.routes.get(prefix) {
                return Some(route);
            }
            prefix = &prefix[..prefix.rfind('/')?];
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use proptest::{collection::btree_set, prelude::*};

    use super::*;
    use crate::metrics::Metrics;

    fn table(paths: &[&str]) -> RouteTable {
        let metrics = Metrics::new(&Registry::new()).expect("metrics");
        let upstream = Arc::new(Upstream::new("test", &metrics, 1));
        let route = |path: &&str| {
            Arc::new(Route { path: (*path).into(), upstream: upstream.clone(), metrics: metrics.route("test", path) })
        };
        RouteTable::new(paths.iter().map(route))
    }

    #[track_caller]
    fn assert_routes(paths: &[&str], cases: &[(&str, Option<&str>)]) {
        let table = table(paths);
        for (path, expected) in cases {
            assert_eq!(table.find(path).map(|route| &*route.path), *expected, "{path} among {paths:?}");
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let paths = ["/users", "/users/admin", "/users/admin/keys/old", "/v1/stock"];
        assert_routes(
            &paths,
            &[
                ("/users", Some("/users")),
                ("/users/", Some("/users")),
                ("/users/1", Some("/users")),
                ("/users/1/wishlist/2/3/4", Some("/users")),
                ("/users//1", Some("/users")),
                ("/users/admin", Some("/users/admin")),
                ("/users/admin/keys", Some("/users/admin")),
                ("/users/admin/keys/old", Some("/users/admin/keys/old")),
                ("/users/admin/keys/old/1", Some("/users/admin/keys/old")),
                ("/users/admin/keys/older", Some("/users/admin")),
                ("/users/administrator", Some("/users")),
                ("/v1/stock/5", Some("/v1/stock")),
                ("/usersx", None),
                ("/user", None),
                ("/Users", None),
                ("/v1", None),
                ("/v1/stocks", None),
                ("/", None),
                ("*", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn paths_are_not_decoded() {
        let paths = ["/users", "/inventory"];
        assert_routes(
            &paths,
            &[
                ("//users", None),
                ("/%75sers", None),
                ("/users%2f1", None),
                ("/users%2F..%2Finventory", None),
                ("/users;v=1", None),
                ("/users/inventory", Some("/users")),
            ],
        );
    }

    #[test]
    fn the_root_matches_everything_else() {
        assert_routes(&["/", "/users"], &[("/", Some("/")), ("//users", Some("/")), ("/users/1", Some("/users"))]);
        assert_routes(&["/users/"], &[("/users", Some("/users/")), ("/users/1", Some("/users/")), ("/usersx", None)]);
        assert_routes(&[], &[("/", None), ("/users", None)]);
    }

    proptest! {
        #[test]
        fn routes_are_found_as_by_a_linear_search(
            prefixes in btree_set("/|(/[ab]){1,4}", 0..6),
            path in "[/ab]{0,10}",
        ) {
            let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
            let matches = |prefix: &&&str| {
                let rest = path.strip_prefix(prefix.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let expected = prefixes.iter().filter(matches).max_by_key(|prefix| prefix.len());
            let table = table(&prefixes);
            let found = table.find(&path).map(|route| &*route.path);
            prop_assert_eq!(found, expected.copied(), "{} in {:?}", path, prefixes);
        }
    }
}
