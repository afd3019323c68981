//! What rendering needs to know beyond the object itself.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
};

use kube::ResourceExt;

use super::authentication::Authentication;
use api::Microservice;

/// What `render` needs to know beyond the object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderInputs {
    /// The paths of the object's route that no older object claims: those the gateway routes.
    pub accepted_paths: Vec<String>,
    /// The objects whose `calls` contain this one.
    pub callers: BTreeSet<String>,
    /// The gRPC ports of the objects that this one calls, by name. Callees that do not exist or set no port are
    /// missing.
    pub callee_ports: BTreeMap<String, u16>,
    /// A digest of the database password, so that pods are replaced when it changes; `None` without a database.
    pub credentials_digest: Option<String>,
    /// The uid of the `ServiceAccount`, if it is known. A token is bound to it, so pods that get one are replaced when it
    /// changes.
    pub account_uid: Option<String>,
    /// Whether the Secret holds the CA certificate of the database server (`ca.crt`).
    pub database_ca: bool,
    /// The names of the namespaces that may scrape the admin port; empty for all.
    pub scrape_namespaces: Vec<String>,
    /// Extra labels of the `PodMonitor`; `None` if there is to be no `PodMonitor`.
    pub pod_monitor: Option<BTreeMap<String, String>>,
    /// Who may call services; `None` if everyone may, and nobody verifies tokens.
    pub authentication: Option<Authentication>,
    /// Whether network policies are disabled, so that every pod may connect.
    pub open_network: bool,
    /// The pull secrets of the image registries.
    pub image_pull_secrets: Vec<String>,
}

impl RenderInputs {
    /// Adds what the objects of the namespace, `all`, say about `object`: who calls it, the ports of its callees, and that
    /// of the issuer.
    #[must_use]
    pub fn with_siblings<T: Borrow<Microservice>>(mut self, object: &Microservice, all: &[T]) -> Self {
        let name = object.name_any();
        for other in all {
            let other: &Microservice = other.borrow();
            if other.spec.calls.contains(&name) {
                self.callers.insert(other.name_any());
            }
            if let Some(port) = other.spec.ports.grpc.filter(|_| object.spec.calls.contains(&other.name_any())) {
                self.callee_ports.insert(other.name_any(), port);
            }
            let issuer = self.authentication.as_mut().and_then(|authentication| authentication.issuer.as_mut());
            if let Some(issuer) = issuer.filter(|issuer| issuer.is(other)) {
                issuer.port = other.spec.ports.http;
            }
        }
        self
    }
}
