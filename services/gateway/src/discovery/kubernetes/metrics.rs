//! What the watches have to say of themselves, as metrics and in the log.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::table::View;

/// The metrics of discovery in a cluster.
#[derive(Clone)]
pub(super) struct Metrics {
    failures: IntCounterVec,
    services: IntGauge,
    malformed: IntGauge,
    conflicts: IntGauge,
    /// What was wrong the last time it was looked: each is logged once.
    complaints: Arc<Mutex<BTreeSet<String>>>,
}

impl Metrics {
    /// # Errors
    /// Where two metrics have one name: a mistake in the code.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new("gateway_discovery_failures_total", "Failures to list or watch, by kind of object.");
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
            malformed: gauge("gateway_malformed_routes", "Services whose route cannot be understood, and is ignored.")?,
            conflicts: gauge("gateway_conflicting_paths", "Paths that a service claims and an older one has.")?,
            complaints: Arc::default(),
        })
    }

    /// The counter of failures with a kind of object.
    pub(super) fn failures(&self, resource: &str) -> IntCounter {
        self.failures.with_label_values(&[resource])
    }

    /// Shows what is known now, and logs what is newly wrong with it.
    pub(super) fn show(&self, view: &View) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.services.set(count(view.services.len()));
        self.malformed.set(count(view.malformed.len()));
        self.conflicts.set(count(view.conflicts.len()));
        let malformed = view.malformed.iter().map(|(service, why)| format!("the route of {service} is ignored: {why}"));
        let conflicts = view.conflicts.iter();
        let conflicts =
            conflicts.map(|(path, older, younger)| format!("{path} stays {older}'s; {younger} claims it too"));
        let now: BTreeSet<_> = malformed.chain(conflicts).collect();
        let mut known = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        for new in now.difference(&known) {
            tracing::warn!("{new}");
        }
        *known = now;
    }
}
