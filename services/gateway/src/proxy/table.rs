//! Which service a path belongs to: that of the longest prefix among the routes, on the borders of segments.
//!
//! A path is routed as it stands, and sent on as it stands: nothing is decoded, so `/%75sers` is not `/users`. That is
//! what makes it safe: no service can be meant by the gateway and another one by the server that gets the request. See
//! [`target`](super::target) for the paths that are refused.

use std::{collections::HashMap, sync::Arc};

use super::upstream::Upstream;
use crate::metrics::RouteMetrics;

/// A path prefix and whose it is.
pub(crate) struct Route {
    /// The prefix, which is the label of metrics: `/users`, or `/`.
    pub(crate) path: Box<str>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) metrics: RouteMetrics,
}

/// All routes.
#[derive(Default)]
pub(crate) struct Table {
    /// By prefix, without a slash at its end.
    routes: HashMap<Box<str>, Arc<Route>>,
    /// The most segments that a prefix has.
    deepest: usize,
}

impl Table {
    pub(super) fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        let by_prefix = |route: Arc<Route>| (route.path.trim_end_matches('/').into(), route);
        let routes: HashMap<Box<str>, _> = routes.into_iter().map(by_prefix).collect();
        let deepest = routes.keys().map(|prefix| prefix.matches('/').count()).max().unwrap_or_default();
        Self { routes, deepest }
    }

    /// The route of a path, which has no query.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<Route>> {
        // No prefix is found in what is deeper than all of them.
        let end = path.match_indices('/').nth(self.deepest).map_or(path.len(), |(at, _)| at);
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

    use super::*;
    use crate::metrics::Metrics;

    fn table(paths: &[&str]) -> Table {
        let metrics = Metrics::new(&Registry::new()).expect("metrics");
        let upstream = Arc::new(Upstream::new("test", &metrics, 1));
        let route = |path: &&str| {
            Arc::new(Route { path: (*path).into(), upstream: upstream.clone(), metrics: metrics.route("test", path) })
        };
        Table::new(paths.iter().map(route))
    }

    #[track_caller]
    fn assert_routes(paths: &[&str], cases: &[(&str, Option<&str>)]) {
        let table = table(paths);
        for (path, expected) in cases {
            assert_eq!(table.find(path).map(|route| &*route.path), *expected, "{path} among {paths:?}");
        }
    }

    #[test]
    fn the_longest_prefix_on_the_borders_of_segments_wins() {
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
    fn a_path_is_routed_as_it_stands() {
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
    fn the_root_takes_what_nobody_else_does() {
        assert_routes(&["/", "/users"], &[("/", Some("/")), ("//users", Some("/")), ("/users/1", Some("/users"))]);
        assert_routes(&["/users/"], &[("/users", Some("/users/")), ("/users/1", Some("/users/")), ("/usersx", None)]);
        assert_routes(&[], &[("/", None), ("/users", None)]);
    }
}
