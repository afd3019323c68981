//! The objects that make up a service, as a pure function of its `Microservice` and a few facts.
//!
//! The controller, `operator render` and the snapshot tests all call [`render`].

mod deployment;
mod environment;
mod facts;
mod labels;
mod migration;
pub mod names;
mod network_policies;
mod pod;
pub mod pod_monitor;
mod resources;
mod scaling;
mod services;

#[cfg(test)]
mod tests;

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

pub use facts::Facts;
pub use labels::{MANAGED_BY, SERVICE, labels};
pub use migration::HASH as MIGRATION;
pub use pod::CA_PATH;

/// The objects that make up a service. If the `Microservice` is not stored and so has no uid, they have no owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Children {
    /// The identity of the pods.
    pub service_account: ServiceAccount,
    /// Migrates the schema before the Deployment changes; `None` without a database.
    pub migration: Option<Job>,
    /// The pods. `replicas` is not set: the controller applies it separately, or leaves it to the autoscaler.
    pub deployment: Deployment,
    /// The Service and the headless Service.
    pub services: [Service; 2],
    /// `None` if `scaling.min` equals `scaling.max`.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// `None` if `scaling.min` is 1.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Who may connect. Empty if network policies are disabled.
    pub network_policies: Vec<NetworkPolicy>,
    /// `None` if `PodMonitor`s are disabled or the cluster does not have the kind.
    pub pod_monitor: Option<DynamicObject>,
}

/// Renders the children of `object`.
#[must_use]
pub fn render(object: &Microservice, facts: &Facts) -> Children {
    let migration = object.spec.database.as_ref().map(|_| migration::build(object, facts));
    Children {
        service_account: pod::service_account(object),
        deployment: deployment::build(object, facts, migration.as_ref()),
        migration,
        services: services::build(object, facts),
        autoscaler: object.spec.scaling.is_automatic().then(|| scaling::autoscaler(object)),
        disruption_budget: (object.spec.scaling.min >= 2).then(|| scaling::disruption_budget(object)),
        network_policies: if facts.open_network { Vec::new() } else { network_policies::build(object, facts) },
        pod_monitor: facts.pod_monitor.as_ref().map(|labels| pod_monitor::build(object, labels)),
    }
}
