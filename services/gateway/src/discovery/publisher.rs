//! The channel between the task that discovers services and everything that uses them.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use crate::auth::Access;

/// A service that has a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// The name, which is also the `service` label of metrics.
    pub(crate) name: String,
    /// The path prefixes routed to the service, such as `/users`. No two services share a prefix.
    pub(crate) paths: Vec<String>,
    /// The endpoints that serve HTTP: the ready ones or, if none is ready, those that still serve while they terminate.
    pub(crate) http: Vec<SocketAddr>,
    /// The endpoints that serve gRPC; `None` if the service's route is for HTTP only.
    pub(crate) grpc: Option<Vec<SocketAddr>>,
    /// The path prefixes below which the service honors `Idempotency-Key`.
    pub(crate) idempotency_keys: Vec<String>,
    /// Which requests are let in.
    pub(crate) access: Arc<Access>,
}

/// All services that have a route, sorted by name. Each change publishes a new list.
pub(crate) type Services = watch::Receiver<Arc<[Service]>>;

/// What is known about the services. A background task keeps it up to date.
pub(crate) struct Discovery {
    /// The current services.
    pub(crate) services: Services,
    pub(super) complete: watch::Receiver<bool>,
}

/// Publishes the services that were discovered.
pub(super) struct Publisher {
    services: watch::Sender<Arc<[Service]>>,
    complete: watch::Sender<bool>,
}

/// Creates a publisher and the receiving end for it.
pub(super) fn channel() -> (Publisher, Discovery) {
    let (services, services_receiver) = watch::channel(Arc::default());
    let (complete, complete_receiver) = watch::channel(false);
    (Publisher { services, complete }, Discovery { services: services_receiver, complete: complete_receiver })
}

impl Discovery {
    /// Checks that a complete list of services was received. It stays ready from then on: if the source becomes
    /// unavailable, the last known list stays in use.
    ///
    /// # Errors
    /// Returns the reason if no complete list was received yet.
    pub(crate) fn ready(&self) -> Result<(), Arc<str>> {
        if *self.complete.borrow() { Ok(()) } else { Err("services have not been discovered yet".into()) }
    }

    /// Checks that the discovery task is running. It ends only because of a bug, and only a restart helps then.
    ///
    /// # Errors
    /// Returns the reason if the task has ended.
    pub(crate) fn live(&self) -> Result<(), Arc<str>> {
        // The task owns the sender, so a closed channel means that the task has ended.
        if self.complete.has_changed().is_ok() { Ok(()) } else { Err("service discovery has stopped".into()) }
    }
}

impl Publisher {
    /// Publishes the current services, unless they are the same as before.
    pub(super) fn publish(&self, services: Vec<Service>) {
        self.services.send_if_modified(|current| {
            let changed = **current != *services;
            if changed {
                log_changes(current, &services);
                *current = services.into();
            }
            changed
        });
        self.complete.send_if_modified(|complete| !std::mem::replace(complete, true));
    }
}

/// Logs which services have appeared, changed their paths or disappeared. Both lists are sorted by name.
fn log_changes(before: &[Service], now: &[Service]) {
    let find = |list: &[Service], service: &Service| list.binary_search_by(|other| other.name.cmp(&service.name)).ok();
    for service in now {
        if find(before, service).is_none_or(|index| before[index].paths != service.paths) {
            tracing::info!(service = service.name, paths = service.paths.join(" "), "service routed");
        }
    }
    for service in before.iter().filter(|service| find(now, service).is_none()) {
        tracing::info!(service = service.name, "service no longer routed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, address: &str) -> Service {
        let http = vec![address.parse().expect("an address")];
        let paths = vec![format!("/{name}")];
        Service { name: name.to_owned(), paths, http, grpc: None, idempotency_keys: Vec::new(), access: Arc::default() }
    }

    #[test]
    fn discovery_is_ready_after_the_first_list_even_if_empty() {
        let (publisher, discovery) = channel();
        assert!(discovery.ready().is_err());
        publisher.publish(Vec::new());
        assert!(discovery.ready().is_ok() && discovery.live().is_ok());
        drop(publisher);
        assert!(discovery.ready().is_ok(), "the last known list is still usable");
        assert!(discovery.live().is_err());
    }

    #[test]
    fn an_unchanged_list_is_not_published_again() {
        let (publisher, discovery) = channel();
        let mut services = discovery.services.clone();
        let mut publish = |list| {
            publisher.publish(list);
            let changed = services.has_changed().expect("an open channel");
            services.mark_unchanged();
            changed
        };
        assert!(publish(vec![service("a", "10.0.0.1:80")]));
        assert!(!publish(vec![service("a", "10.0.0.1:80")]));
        assert!(publish(vec![service("a", "10.0.0.2:80")]));
        assert!(publish(Vec::new()));
    }
}
