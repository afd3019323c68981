//! The Deployment of the pods that serve requests.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        batch::v1::Job,
        core::v1::{
            Container, ContainerPort, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, TopologySpreadConstraint,
        },
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt;

use super::{
    authentication, environment,
    inputs::RenderInputs,
    labels::{self, SERVICE, metadata},
    pod,
};
use api::{Microservice, annotations};

/// How long a pod may take to terminate: the drain delay (5 s), the shutdown timeout (25 s), and a margin.
const GRACE_PERIOD_SECONDS: i64 = 45;
/// How long a pod must be ready before the rollout continues. Together with its start-up that is about as long as an
/// old pod drains, so few pods drain at once. Their connections count against the database's connection limit.
const MIN_READY_SECONDS: i32 = 3;
/// How long a rollout may make no progress before it counts as stuck.
const PROGRESS_DEADLINE_SECONDS: i32 = 300;
/// How many revisions `kubectl rollout undo` can go back to.
const REVISIONS: i32 = 3;

pub(super) fn build(object: &Microservice, inputs: &RenderInputs, migration: Option<&Job>) -> Deployment {
    // There is no `preStop` hook: after SIGTERM a service keeps serving for its drain delay and tells clients to
    // reconnect elsewhere. A sleep before SIGTERM could not do that.
    let container = Container {
        ports: Some(ports(object)),
        // A restart only helps a process that hangs, so liveness does not depend on the database.
        startup_probe: Some(probe("/livez", 1, 120)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        ..pod::container(object, inputs, environment::service(object, inputs))
    };
    let mut pod = PodSpec {
        automount_service_account_token: Some(object.spec.automount_token),
        termination_grace_period_seconds: Some(GRACE_PERIOD_SECONDS),
        topology_spread_constraints: Some(
            ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map(|key| spread(object, key)).into(),
        ),
        ..pod::spec(object, inputs, container)
    };
    authentication::mount(object, inputs, &mut pod);
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels::pod(object, SERVICE)),
            annotations: Some(pod_annotations(object, inputs, migration)),
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    };
    Deployment {
        metadata: metadata(object, object.name_any(), SERVICE),
        spec: Some(DeploymentSpec {
            selector: labels::pods(object),
            template,
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            min_ready_seconds: Some(MIN_READY_SECONDS),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
            revision_history_limit: Some(REVISIONS),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod_annotations(object: &Microservice, inputs: &RenderInputs, job: Option<&Job>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<_, _> = [
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", object.spec.ports.admin.to_string()),
        ("prometheus.io/path", "/metrics".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if let Some(hash) = job.and_then(|job| job.annotations().get(annotations::MIGRATION)) {
        all.insert(annotations::MIGRATION.to_owned(), hash.clone());
    }
    if let Some(digest) = &inputs.credentials_digest {
        all.insert(annotations::CREDENTIALS_DIGEST.to_owned(), digest.clone());
    }
    if let Some(uid) = inputs.account_uid.as_ref().filter(|_| object.spec.automount_token) {
        all.insert(annotations::ACCOUNT_UID.to_owned(), uid.clone());
    }
    all
}

fn ports(object: &Microservice) -> Vec<ContainerPort> {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let ports = &object.spec.ports;
    let grpc = ports.grpc.map(|number| port("grpc", number));
    [Some(port("http", ports.http)), grpc, Some(port("admin", ports.admin))].into_iter().flatten().collect()
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// Spreads pods over the values of a node label, if the cluster has several.
fn spread(object: &Microservice, key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(labels::pods(object)),
        // Count the pods of the new version only: the old ones are about to terminate.
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..TopologySpreadConstraint::default()
    }
}
