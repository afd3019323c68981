//! Metrics and log messages about the watches and about routes that cannot be served.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::table::{Conflict, Malformed, View};

/// The metrics of discovery in a cluster.
#[derive(Clone)]
pub(super) struct Metrics {
    failures: IntCounterVec,
    services: IntGauge,
    malformed: IntGauge,
    conflicts: IntGauge,
    /// The problems that were logged and still exist, so that each is logged once.
    logged: Arc<Mutex<Logged>>,
}

#[derive(Default)]
struct Logged {
    malformed: BTreeSet<Malformed>,
    conflicts: BTreeSet<Conflict>,
}

impl Metrics {
    /// # Errors
    /// Returns an error if a metric of the same name is already registered, which is a bug.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new("gateway_discovery_failures_total", "Failed lists and watches, by resource.");
        let failures = IntCounterVec::new(options, &["resource"])?;
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        registry.register(Box::new(failures.clone()))?;
        Ok(Self {
            failures,
            services: gauge("gateway_routed_services", "Services that have a route.")?,
            malformed: gauge(
                "gateway_malformed_routes",
                "Services whose route annotation is malformed and therefore ignored.",
            )?,
            conflicts: gauge(
                "gateway_conflicting_paths",
                "Paths that a service claims and an older service already has.",
            )?,
            logged: Arc::default(),
        })
    }

    /// The counter of failures of one resource.
    pub(super) fn failures(&self, resource: &str) -> IntCounter {
        self.failures.with_label_values(&[resource])
    }

    /// Updates the gauges, and logs problems that are new.
    pub(super) fn report(&self, view: &View) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.services.set(count(view.services.len()));
        self.malformed.set(count(view.malformed.len()));
        self.conflicts.set(count(view.conflicts.len()));
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        for Malformed { service, error } in view.malformed.difference(&logged.malformed) {
            tracing::warn!(service, error, "malformed route annotation");
        }
        for Conflict { path, owner, service } in view.conflicts.difference(&logged.conflicts) {
            tracing::warn!(service, path, owner, "ignoring path that an older service has claimed");
        }
        *logged = Logged { malformed: view.malformed.clone(), conflicts: view.conflicts.clone() };
    }
}
