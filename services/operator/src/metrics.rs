//! The metrics of the operator. No label contains the name of an object.

use std::{
    collections::BTreeMap,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use api::Microservice;
use http::{Method, Request, Uri};
use kube::runtime::reflector::Store;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tower::{Layer, Service};

/// Upper bounds of the duration buckets, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The metrics that the controller updates.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    reconciles: IntCounter,
    durations: Histogram,
    /// Reconciles that could not write the status.
    pub(crate) errors: IntCounter,
    requests: IntCounterVec,
}

impl Metrics {
    /// # Errors
    /// Returns an error if two metrics have the same name, which is a bug.
    pub(crate) fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let reconciles = IntCounter::new("operator_reconciles_total", "Reconciles started.")?;
        let errors = IntCounter::new("operator_reconcile_errors_total", "Reconciles that could not write the status.")?;
        let options = HistogramOpts::new("operator_reconcile_duration_seconds", "Duration of reconciles.");
        let durations = Histogram::with_opts(options.buckets(BUCKETS.into()))?;
        let options = Opts::new("operator_api_requests_total", "Requests to the API server.");
        let requests = IntCounterVec::new(options, &["verb", "resource"])?;
        let all: [Box<dyn Collector>; 4] = [
            Box::new(reconciles.clone()),
            Box::new(errors.clone()),
            Box::new(durations.clone()),
            Box::new(requests.clone()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        Ok(Self { registry, reconciles, durations, errors, requests })
    }

    /// Counts a reconcile, and measures it until the result is dropped.
    pub(crate) fn start(&self) -> impl Drop + use<> {
        self.reconciles.inc();
        Timer { started: Instant::now(), durations: self.durations.clone() }
    }

    /// Registers the state of the queue and the number of objects by condition. `queue` returns the number of objects
    /// that wait, and for how long the first of them has been waiting.
    ///
    /// # Errors
    /// Returns an error if two metrics have the same name, which is a bug.
    pub(crate) fn register_objects(
        &self,
        objects: Store<Microservice>,
        queue: impl Fn() -> (usize, Duration) + Send + Sync + 'static,
    ) -> Result<(), prometheus::Error> {
        let depth = IntGauge::new("operator_queue_depth", "Objects that wait to be reconciled.")?;
        let wait =
            Gauge::new("operator_queue_wait_seconds", "How long the first object in the queue has been waiting.")?;
        let options = Opts::new("operator_microservices", "Objects by type and status of their conditions.");
        let counts = IntGaugeVec::new(options, &["condition", "status"])?;
        self.registry.register(Box::new(Objects { store: objects, queue: Box::new(queue), depth, wait, counts }))
    }
}

struct Timer {
    started: Instant,
    durations: Histogram,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.durations.observe(self.started.elapsed().as_secs_f64());
    }
}

/// Counts objects when metrics are scraped.
struct Objects {
    store: Store<Microservice>,
    queue: Box<dyn Fn() -> (usize, Duration) + Send + Sync>,
    depth: IntGauge,
    wait: Gauge,
    counts: IntGaugeVec,
}

impl Collector for Objects {
    fn desc(&self) -> Vec<&Desc> {
        self.depth.desc().into_iter().chain(self.wait.desc()).chain(self.counts.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
        for object in self.store.state() {
            for condition in object.status.iter().flat_map(|status| &status.conditions) {
                *counts.entry((condition.type_.clone(), condition.status.clone())).or_default() += 1;
            }
        }
        self.counts.reset();
        for ((condition, status), count) in counts {
            self.counts.with_label_values(&[&condition, &status]).set(count);
        }
        let (depth, wait) = (self.queue)();
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
        self.wait.set(wait.as_secs_f64());
        self.depth.collect().into_iter().chain(self.wait.collect()).chain(self.counts.collect()).collect()
    }
}

/// A layer that counts the requests of a client.
#[derive(Clone)]
pub(crate) struct CountRequests(pub(crate) Metrics);

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.0.requests.clone() }
    }
}

/// The service of [`CountRequests`].
#[derive(Clone)]
pub(crate) struct Counted<S> {
    inner: S,
    requests: IntCounterVec,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let labels = [verb(request.method(), request.uri()), resource(request.uri().path())];
        self.requests.with_label_values(&labels).inc();
        self.inner.call(request)
    }
}

/// The verb of a request, as in RBAC rules.
fn verb(method: &Method, uri: &Uri) -> &'static str {
    // A namespace, a resource and a name.
    let is_named = uri.path().split('/').skip_while(|part| *part != "namespaces").nth(3).is_some();
    match *method {
        Method::GET if uri.query().is_some_and(|query| query.split('&').any(|part| part == "watch=true")) => "watch",
        Method::GET if is_named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PATCH => "patch",
        Method::PUT => "update",
        Method::DELETE => "delete",
        _ => "other",
    }
}

/// The resource in a path, such as `deployments`, without the name of an object.
fn resource(path: &str) -> &str {
    let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(2);
    parts.next().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_verb_and_resource() {
        let verb = |method, uri: &'static str| verb(&method, &Uri::from_static(uri));
        assert_eq!(verb(Method::GET, "/apis/apps/v1/namespaces/shop/deployments?&limit=500"), "list");
        assert_eq!(
            verb(Method::GET, "/apis/apps/v1/namespaces/shop/deployments?&watch=true&timeoutSeconds=290"),
            "watch"
        );
        assert_eq!(verb(Method::GET, "/apis/apps/v1/namespaces/shop/deployments/orders"), "get");
        assert_eq!(verb(Method::PATCH, "/apis/apps/v1/namespaces/shop/deployments/orders?&force=true"), "patch");
        assert_eq!(verb(Method::GET, "/apis/monitoring.coreos.com/v1"), "list", "discovery");
        assert_eq!(resource("/apis/apps/v1/namespaces/shop/deployments/orders"), "deployments");
        assert_eq!(
            resource("/apis/hedgerow.dev/v1alpha1/namespaces/shop/microservices/orders/status"),
            "microservices"
        );
        assert_eq!(resource("/api/v1/namespaces/shop/pods"), "pods");
        assert_eq!(resource("/apis/monitoring.coreos.com/v1"), "other");
    }
}
