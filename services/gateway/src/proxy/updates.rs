//! Follows discovery: each list of services becomes a table of routes, which takes the place of the one before at once.
//! What is known of services, routes and endpoints that stay is kept: requests in flight, connections, who is left out.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::time;

use super::{
    table::{Route, Table},
    upstream::Upstream,
};
use crate::{
    metrics::Metrics,
    services::{Service, Services},
};

/// How often connections that were idle for too long are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// The services that are known, and the table that was made of them.
pub(super) struct Updates {
    metrics: Metrics,
    workers: usize,
    table: Arc<ArcSwap<Table>>,
    upstreams: HashMap<String, Arc<Upstream>>,
    routes: HashMap<String, Arc<Route>>,
}

impl Updates {
    pub(super) fn new(metrics: &Metrics, workers: usize) -> Self {
        let (metrics, table) = (metrics.clone(), Arc::default());
        Self { metrics, workers, table, upstreams: HashMap::new(), routes: HashMap::new() }
    }

    pub(super) fn table(&self) -> Arc<ArcSwap<Table>> {
        self.table.clone()
    }

    /// Applies what is known now.
    pub(super) fn apply(&mut self, services: &[Service]) {
        let begun = Instant::now();
        let gone = std::mem::take(&mut self.upstreams);
        for service in services {
            let known = gone.get(&service.name).cloned();
            let upstream = known.unwrap_or_else(|| Arc::new(Upstream::new(&service.name, &self.metrics, self.workers)));
            upstream.set_endpoints(&service.http, service.grpc.as_deref());
            self.upstreams.insert(service.name.clone(), upstream);
        }

        let before = std::mem::take(&mut self.routes);
        let mut same = true;
        for service in services {
            let upstream = &self.upstreams[&service.name];
            for path in &service.paths {
                let known = before.get(path).filter(|route| Arc::ptr_eq(&route.upstream, upstream)).cloned();
                same &= known.is_some();
                let route = known.unwrap_or_else(|| {
                    let metrics = self.metrics.route(&service.name, path);
                    Arc::new(Route { path: path.as_str().into(), upstream: upstream.clone(), metrics })
                });
                self.routes.insert(path.clone(), route);
            }
        }
        // A rolling update of one service needs no new table: only its endpoints have changed.
        if !same || before.len() != self.routes.len() {
            self.table.store(Arc::new(Table::new(self.routes.values().cloned())));
        }
        for (path, route) in before {
            if !self.routes.get(&path).is_some_and(|now| Arc::ptr_eq(now, &route)) {
                route.metrics.retire();
            }
        }
        for (name, upstream) in gone {
            if !self.upstreams.contains_key(&name) {
                upstream.set_endpoints(&[], None);
                upstream.metrics.retire();
            }
        }
        self.metrics.routes.set(i64::try_from(self.routes.len()).unwrap_or(i64::MAX));
        self.metrics.updates.observe(begun.elapsed().as_secs_f64());
    }

    /// Applies each change, and sweeps in between.
    pub(super) async fn follow(mut self, mut services: Services) {
        let mut sweep = time::interval(SWEEP);
        loop {
            tokio::select! {
                changed = services.changed() => match changed {
                    Ok(()) => {
                        let now = services.borrow_and_update().clone();
                        self.apply(&now);
                    }
                    // Discovery has ended: what is known stays.
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
