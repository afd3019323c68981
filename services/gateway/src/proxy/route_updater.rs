//! Turns each list of services from discovery into a route table, which replaces the previous one atomically.
//!
//! Services, routes and endpoints that stay keep their state: requests in flight, connections, ejections.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::time;

use super::{
    route_table::{Route, RouteTable},
    upstream::Upstream,
};
use crate::{
    discovery::{Service, Services},
    metrics::Metrics,
};

/// How often connections that have been idle for too long are closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Owns the known services and routes, and publishes the route table.
pub(super) struct RouteUpdater {
    metrics: Metrics,
    workers: usize,
    table: Arc<ArcSwap<RouteTable>>,
    upstreams: HashMap<String, Arc<Upstream>>,
    routes: HashMap<String, Arc<Route>>,
}

impl RouteUpdater {
    pub(super) fn new(metrics: &Metrics, workers: usize) -> Self {
        let (metrics, table) = (metrics.clone(), Arc::default());
        Self { metrics, workers, table, upstreams: HashMap::new(), routes: HashMap::new() }
    }

    /// The current route table.
    pub(super) fn routes(&self) -> Arc<ArcSwap<RouteTable>> {
        self.table.clone()
    }

    /// Applies a list of services.
    pub(super) fn apply(&mut self, services: &[Service]) {
        let started = Instant::now();
        let previous = std::mem::take(&mut self.upstreams);
        for service in services {
            let known = previous.get(&service.name).cloned();
            let upstream = known.unwrap_or_else(|| Arc::new(Upstream::new(&service.name, &self.metrics, self.workers)));
            upstream.set_endpoints(&service.http, service.grpc.as_deref());
            upstream.set_idempotency_keys(&service.idempotency_keys);
            // Before the table that routes to a new service.
            upstream.set_access(&service.access);
            self.upstreams.insert(service.name.clone(), upstream);
        }

        let previous_routes = std::mem::take(&mut self.routes);
        let mut is_unchanged = true;
        for service in services {
            let upstream = &self.upstreams[&service.name];
            for path in &service.paths {
                let known = previous_routes.get(path).filter(|route| Arc::ptr_eq(&route.upstream, upstream)).cloned();
                is_unchanged &= known.is_some();
                let route = known.unwrap_or_else(|| {
                    let metrics = self.metrics.route(&service.name, path);
                    Arc::new(Route { path: path.as_str().into(), upstream: upstream.clone(), metrics })
                });
                self.routes.insert(path.clone(), route);
            }
        }
        // If only endpoints have changed, as in a rolling update, the table stays.
        if !is_unchanged || previous_routes.len() != self.routes.len() {
            self.table.store(Arc::new(RouteTable::new(self.routes.values().cloned())));
        }
        for (path, route) in previous_routes {
            if !self.routes.get(&path).is_some_and(|now| Arc::ptr_eq(now, &route)) {
                route.metrics.retire();
            }
        }
        for (name, upstream) in previous {
            if !self.upstreams.contains_key(&name) {
                upstream.set_endpoints(&[], None);
                upstream.metrics.retire();
            }
        }
        self.metrics.routes.set(i64::try_from(self.routes.len()).unwrap_or(i64::MAX));
        self.metrics.route_updates.observe(started.elapsed().as_secs_f64());
    }

    /// Applies every change, and closes idle connections in between.
    pub(super) async fn follow(mut self, mut services: Services) {
        let mut sweep = time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                changed = services.changed() => match changed {
                    Ok(()) => {
                        let now = services.borrow_and_update().clone();
                        self.apply(&now);
                    }
                    // Discovery has ended, so the services stay as they are.
                    Err(_) => loop {
                        sweep.tick().await;
                        self.sweep();
                    },
                },
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn sweep(&self) {
        let now = Instant::now();
        for upstream in self.upstreams.values() {
            upstream.for_each_endpoint(|endpoint| endpoint.sweep(now));
        }
    }
}
