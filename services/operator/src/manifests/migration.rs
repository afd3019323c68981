//! The Job that migrates the schema to what the image needs.
//!
//! Its name contains a hash of what the migration depends on, so a different migration is a different Job. The Job that
//! tries a migration again has a number after the hash. A Job is created and never changed: its pod template is
//! immutable, and a newer operator has no reason to rerun a migration.

use std::iter;

use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::{Container, PodSpec, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::{
    environment,
    inputs::RenderInputs,
    labels::{self, metadata},
    names, pod,
};
use api::{Microservice, annotations};

const COMPONENT: &str = "migration";
const ARGUMENTS: [&str; 1] = ["migrate"];

/// The exit codes after which a retry would fail again: an SQL error (1), and invalid arguments or configuration (2).
/// An unreachable database (75) and a killed container are retried.
const FATAL_EXIT_CODES: [i32; 2] = [1, 2];
/// How often a migration is retried. The delays grow from 10 s, which adds up to about ten minutes.
const RETRIES: i32 = 6;
/// How long a migration may take, including its retries.
const DEADLINE_SECONDS: i64 = 600;

/// Selects the Jobs of an object's migrations and their pods.
#[must_use]
pub fn selector(object: &Microservice) -> String {
    let mut labels = labels::selector(&object.name_any(), COMPONENT);
    let (key, value) = labels::MANAGED_BY.split_once('=').unwrap_or_default();
    labels.insert(key.to_owned(), value.to_owned());
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The names of the Job of a migration and of those that try the same migration again. A number of one digit
/// leaves room for the suffix of a pod's name.
pub fn attempts(first: &str) -> impl Iterator<Item = String> {
    iter::once(first.to_owned()).chain((2..=9).map(move |attempt| format!("{first}-{attempt}")))
}

pub(super) fn build(object: &Microservice, inputs: &RenderInputs) -> Job {
    let hash = hash(object);
    let container = Container {
        args: Some(ARGUMENTS.map(str::to_owned).into()),
        ..pod::container(object, inputs, environment::migration(object))
    };
    let pod = PodSpec { restart_policy: Some("Never".to_owned()), ..pod::spec(object, inputs, container) };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels::pod(object, COMPONENT)), ..ObjectMeta::default() }),
        spec: Some(pod),
    };
    let name = format!("{}-migrate-{hash}", object.name_any());
    Job {
        metadata: ObjectMeta {
            annotations: Some([(annotations::MIGRATION.to_owned(), hash)].into()),
            ..metadata(object, name, COMPONENT)
        },
        spec: Some(JobSpec {
            template,
            backoff_limit: Some(RETRIES),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            pod_failure_policy: Some(failure_policy()),
            // Two pods of one migration must never run at once.
            pod_replacement_policy: Some("Failed".to_owned()),
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The first rule that matches applies: an evicted pod is not a failed attempt, whatever its exit code.
fn failure_policy() -> PodFailurePolicy {
    let evicted =
        PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: "True".to_owned() };
    let fatal = PodFailurePolicyOnExitCodesRequirement {
        container_name: Some(names::CONTAINER.to_owned()),
        operator: "In".to_owned(),
        values: FATAL_EXIT_CODES.into(),
    };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![evicted]),
            },
            PodFailurePolicyRule { action: "FailJob".to_owned(), on_exit_codes: Some(fatal), on_pod_conditions: None },
        ],
    }
}

/// Hashes the image, the arguments and the environment: a migration depends on nothing else.
fn hash(object: &Microservice) -> String {
    let inputs = serde_json::json!([object.spec.image, ARGUMENTS, environment::migration(object)]);
    format!("{:.10x}", Sha256::digest(inputs.to_string()))
}
