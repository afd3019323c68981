//! The Job that brings the schema up to what the new image needs.
//!
//! Its name is a hash of what the migration depends on, so another migration is another Job. A Job is made and never
//! changed: what a new operator would write otherwise into one that is there does not matter, and the API server would
//! refuse it.

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

use super::{Facts, environment, labels, metadata, names, pod};
use api::Microservice;

/// The annotation that holds what a migration depends on, as a hash: on the Job, and on the pods that need it.
pub const HASH: &str = "hedgerow.dev/migration";

const COMPONENT: &str = "migration";
const ARGUMENTS: [&str; 1] = ["migrate"];

/// The exit statuses that another try would only repeat: an SQL error, and wrong arguments or configuration. The one
/// for a database that cannot be reached (75) is not among them, nor are those of a container that was killed.
const HOPELESS: [i32; 2] = [1, 2];
/// How often a migration is tried again; the waits between grow from 10 s, which makes about ten minutes.
const RETRIES: i32 = 6;
/// How long a migration may take, with all its tries.
const DEADLINE_SECONDS: i64 = 600;

pub(super) fn build(object: &Microservice, facts: &Facts) -> Job {
    let hash = hash(object);
    let container = Container {
        args: Some(ARGUMENTS.map(str::to_owned).into()),
        ..pod::container(object, facts, environment::migration(object))
    };
    let pod = PodSpec { restart_policy: Some("Never".to_owned()), ..pod::spec(object, facts, container) };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels::pod(object, COMPONENT)), ..ObjectMeta::default() }),
        spec: Some(pod),
    };
    let name = format!("{}-migrate-{hash}", object.name_any());
    Job {
        metadata: ObjectMeta {
            annotations: Some([(HASH.to_owned(), hash)].into()),
            ..metadata(object, name, COMPONENT)
        },
        spec: Some(JobSpec {
            template,
            backoff_limit: Some(RETRIES),
            active_deadline_seconds: Some(DEADLINE_SECONDS),
            pod_failure_policy: Some(failure_policy()),
            // Two pods of one migration never run at once.
            pod_replacement_policy: Some("Failed".to_owned()),
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// The first rule that fits decides: a pod that was evicted does not count, whatever its container said as it ended.
fn failure_policy() -> PodFailurePolicy {
    let evicted =
        PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: "True".to_owned() };
    let hopeless = PodFailurePolicyOnExitCodesRequirement {
        container_name: Some(names::CONTAINER.to_owned()),
        operator: "In".to_owned(),
        values: HOPELESS.into(),
    };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![evicted]),
            },
            PodFailurePolicyRule {
                action: "FailJob".to_owned(),
                on_exit_codes: Some(hopeless),
                on_pod_conditions: None,
            },
        ],
    }
}

/// Image, arguments and environment: what a migration does depends on nothing else.
fn hash(object: &Microservice) -> String {
    let what = serde_json::json!([object.spec.image, ARGUMENTS, environment::migration(object)]);
    format!("{:.10x}", Sha256::digest(what.to_string()))
}
