//! A service that requests are sent to, with its endpoints, retry budget and metrics.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{balancer::Balancer, endpoint::Endpoint, retry_budget::RetryBudget};
use crate::{
    grpc::Protocol,
    metrics::{Metrics, ServiceMetrics},
};

/// A service, which stays the same while its endpoints come and go.
pub(crate) struct Upstream {
    pub(crate) name: Box<str>,
    http: Balancer,
    grpc: Balancer,
    /// Whether the service accepts gRPC, even if it has no endpoint right now.
    accepts_grpc: AtomicBool,
    pub(super) retry_budget: RetryBudget,
    pub(crate) metrics: ServiceMetrics,
}

impl Upstream {
    pub(crate) fn new(name: &str, metrics: &Metrics, workers: usize) -> Self {
        Self {
            name: name.into(),
            http: Balancer::new(workers),
            grpc: Balancer::new(workers),
            accepts_grpc: AtomicBool::new(false),
            retry_budget: RetryBudget::default(),
            metrics: metrics.service(name),
        }
    }

    /// The endpoints for a protocol; `None` if the service does not accept it.
    pub(super) fn balancer(&self, protocol: Protocol) -> Option<&Balancer> {
        match protocol {
            Protocol::Http => Some(&self.http),
            Protocol::Grpc => self.accepts_grpc.load(Ordering::Relaxed).then_some(&self.grpc),
        }
    }

    /// Replaces the endpoints; `grpc` is `None` if the service does not accept gRPC.
    pub(super) fn set_endpoints(&self, http: &[SocketAddr], grpc: Option<&[SocketAddr]>) {
        self.http.set(http);
        self.grpc.set(grpc.unwrap_or_default());
        self.accepts_grpc.store(grpc.is_some(), Ordering::Relaxed);
    }

    pub(super) fn for_each_endpoint(&self, mut visit: impl FnMut(&Arc<Endpoint>)) {
        self.http.for_each(&mut visit);
        self.grpc.for_each(&mut visit);
    }
}
