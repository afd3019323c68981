//! The objects that make up a service, as a pure function of its `Microservice` and a few other inputs.
//!
//! The controller, `operator render` and the snapshot tests all call [`render`].

mod authentication;
mod deployment;
mod environment;
mod inputs;
mod labels;
pub mod migration;
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

pub(crate) use authentication::is_exposed;
pub use authentication::{Authentication, Issuer, TRUST_FOLDER};
pub use inputs::RenderInputs;
pub use labels::{MANAGED_BY, SERVICE, labels};
pub use pod::CA_PATH;

/// The objects that make up a service. If the `Microservice` is not stored and so has no uid, they have no owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifests {
    /// The identity of the pods.
    pub service_account: ServiceAccount,
    /// Migrates the schema before the Deployment changes; `None` without a database.
    pub migration: Option<Job>,
    /// The pods. `replicas` is not set: the controller sets it, or keeps what the autoscaler chose.
    pub deployment: Deployment,
    /// The Service and the headless Service.
    pub services: [Service; 2],
    /// `None` if `scaling.min` equals `scaling.max`.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// `None` if `scaling.max` is 1.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Who may connect. Empty if network policies are disabled.
    pub network_policies: Vec<NetworkPolicy>,
    /// `None` if `PodMonitor`s are disabled or the cluster does not have the kind.
    pub pod_monitor: Option<DynamicObject>,
}

/// Renders the manifests of `object`.
#[must_use]
pub fn render(object: &Microservice, inputs: &RenderInputs) -> Manifests {
    let migration = object.spec.database.as_ref().map(|_| migration::build(object, inputs));
    Manifests {
        service_account: pod::service_account(object),
        deployment: deployment::build(object, inputs, migration.as_ref()),
        migration,
        services: services::build(object, inputs),
        autoscaler: object.spec.scaling.is_automatic().then(|| scaling::autoscaler(object)),
        disruption_budget: (object.spec.scaling.max >= 2).then(|| scaling::disruption_budget(object)),
        network_policies: if inputs.open_network { Vec::new() } else { network_policies::build(object, inputs) },
        pod_monitor: inputs.pod_monitor.as_ref().map(|labels| pod_monitor::build(object, labels)),
    }
}
