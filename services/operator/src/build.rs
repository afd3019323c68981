//! `render`: what a `Microservice` is made of, as a pure function of the object and a few facts.
//!
//! The controller, `operator render` and the golden tests all call it.

mod autoscaler;
mod deployment;
mod disruption_budget;
mod environment;
mod labels;
mod migration;
pub mod names;
mod network_policies;
mod pod;
pub mod pod_monitor;
mod resources;
mod service_account;
mod services;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::Job,
    core::v1::{Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::api::DynamicObject;

use api::Microservice;

pub use labels::{MANAGED_BY, SERVICE, labels};
pub use migration::HASH as MIGRATION;
pub use pod::CA_PATH;

use labels::metadata;

/// What `render` needs to know beyond the object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The paths of its route that no older object has; what the gateway gets to see.
    pub accepted_paths: Vec<String>,
    /// Changes with the database's password, so that pods are replaced when it does; none without a database.
    pub credentials: Option<String>,
    /// Whether the Secret has the certificate that the database server's is signed with (`ca.crt`).
    pub database_ca: bool,
    /// Namespaces, by name, from which the admin port may be scraped; empty: all.
    pub scrape_namespaces: Vec<String>,
    /// More labels of the `PodMonitor`; none where there is to be none, or the cluster lacks the kind.
    pub pod_monitor: Option<BTreeMap<String, String>>,
    /// Whether network policies are left out: everyone may connect.
    pub open_network: bool,
    /// The Secrets that open the registries of images.
    pub image_pull_secrets: Vec<String>,
}

/// The objects that make up a service. Each is complete but for its owner's uid, which only a stored object has.
#[derive(Debug, Clone, PartialEq)]
pub struct Children {
    /// The identity of its pods.
    pub service_account: ServiceAccount,
    /// Brings the schema up to date, before the Deployment changes; none without a database.
    pub migration: Option<Job>,
    /// Its pods. `replicas` is not set: the controller writes it apart, or leaves it to the autoscaler.
    pub deployment: Deployment,
    /// The Service, and the headless one.
    pub services: [Service; 2],
    /// Where `min` and `max` differ.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// From two replicas up.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Who may connect; none where everyone may.
    pub network_policies: Vec<NetworkPolicy>,
    /// Where there is to be one.
    pub pod_monitor: Option<DynamicObject>,
}

/// Makes the children of `object`.
#[must_use]
pub fn render(object: &Microservice, facts: &Facts) -> Children {
    let migration = object.spec.database.as_ref().map(|_| migration::build(object, facts));
    Children {
        service_account: service_account::build(object),
        deployment: deployment::build(object, facts, migration.as_ref()),
        migration,
        services: services::build(object, facts),
        autoscaler: object.spec.scaling.is_automatic().then(|| autoscaler::build(object)),
        disruption_budget: (object.spec.scaling.min >= 2).then(|| disruption_budget::build(object)),
        network_policies: if facts.open_network { Vec::new() } else { network_policies::build(object, facts) },
        pod_monitor: facts.pod_monitor.as_ref().map(|labels| pod_monitor::build(object, labels)),
    }
}
