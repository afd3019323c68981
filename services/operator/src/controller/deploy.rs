//! The Deployment: its manifest, its replica count and its progress.

use std::ops::RangeInclusive;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};

use super::{
    child::Child,
    conditions::ConditionResult,
    context::Context,
    error::{Error, with_timeout},
    existing::Claim,
    fields::MANAGER,
    pods, rollout,
    status::Running,
};
use api::{Microservice, Scaling};

/// Returns the Deployment of the object. It is read only if it has not settled. One of its name that belongs to something
/// else is none.
pub(crate) async fn read(context: &Context, object: &Microservice) -> Result<Option<Deployment>, Error> {
    let name = object.name_any();
    let observed = context.observed.deployment(&name, context.children.version("Deployment", &name));
    let found = match observed {
        Some(settled) => Some(settled),
        None => with_timeout("read the Deployment", api(context).get_opt(&name)).await?,
    };
    Ok(found.filter(|found| Claim::of(&found.metadata, object).is_valid()))
}

/// Applies the Deployment. Returns the resulting one if anything was written.
pub(crate) async fn roll_out(
    context: &Context,
    object: &Microservice,
    manifest: &Deployment,
) -> Result<Option<Deployment>, Error> {
    let child = Child::typed(manifest)?.with_replicas(replicas(&object.spec.scaling));
    let made = context.children.apply(object, &child).await?;
    Ok(made.map(|made| serde_json::from_value(serde_json::to_value(made)?)).transpose()?)
}

/// Keeps what is rolled out, while nothing new may be: only sets the replica count, and resumes a paused rollout.
/// Returns the resulting Deployment if anything was written.
pub(crate) async fn hold(
    context: &Context,
    object: &Microservice,
    live: &Deployment,
) -> Result<Option<Deployment>, Error> {
    let allowed = replicas(&object.spec.scaling);
    let (current, paused) = live.spec.as_ref().map_or((None, None), |spec| (spec.replicas, spec.paused));
    let current = current.unwrap_or(1);
    let desired = current.clamp(*allowed.start(), *allowed.end());
    if current == desired && paused != Some(true) {
        return Ok(None);
    }
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": live.metadata.resource_version },
        "spec": { "replicas": desired, "paused": null },
    });
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let (api, name, patch) = (api(context), live.name_any(), Patch::Merge(patch));
    match with_timeout("scale the Deployment", api.patch(&name, &parameters, &patch)).await {
        // It changed meanwhile, which triggers another reconcile.
        Err(error) if error.is_gone() => Ok(None),
        written => written.map(Some),
    }
}

/// The replica counts that the autoscaler may choose. It never starts again from zero, so zero is not among them.
fn replicas(scaling: &Scaling) -> RangeInclusive<i32> {
    scaling.min..=scaling.max.max(scaling.min)
}

/// Applies the autoscaler once the Deployment exists. Before that it would only report errors.
pub(crate) async fn autoscale(
    context: &Context,
    object: &Microservice,
    autoscaler: &HorizontalPodAutoscaler,
    deployed: bool,
) -> Result<ConditionResult, Error> {
    if !deployed {
        return Ok(ConditionResult::pending("AutoscalerStarting", "waiting for the Deployment"));
    }
    let (child, name) = (Child::typed(autoscaler)?, autoscaler.name_any());
    context.children.apply(object, &child).await?;
    if let Some(observed) = context.observed.scaling(&name, context.children.version(&child.kind.kind, &name)) {
        return Ok(observed);
    }
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let found = with_timeout("read the autoscaler", api.get_opt(&name)).await?;
    Ok(rollout::scaling(found.as_ref()))
}

/// What a live Deployment does.
pub(crate) struct Observed {
    /// Whether the rollout has finished, with the problem of the pods if it has not.
    pub(crate) rollout: ConditionResult,
    /// Whether any version serves; `None` if that cannot be found out now.
    pub(crate) available: Option<ConditionResult>,
    pub(crate) running: Option<Running>,
}

/// Observes the live Deployment. `is_current` tells whether it is the one specified, or that of an earlier version.
pub(crate) async fn observe(
    context: &Context,
    object: &Microservice,
    live: Result<Option<Deployment>, Error>,
    is_current: bool,
) -> Observed {
    let live = match live {
        Err(error) => return Observed { rollout: error.result(), available: None, running: None },
        Ok(live) => live,
    };
    let available = Some(rollout::available(live.as_ref()));
    let Some(live) = live else {
        let rollout = ConditionResult::pending("NotRolledOut", "no pods have been started yet");
        return Observed { rollout, available, running: Some(Running::default()) };
    };
    let (rollout, image) = progress(context, object, &live).await.unwrap_or_else(|error| {
        let before = context.statuses.last(object).and_then(|status| status.image);
        (error.result(), before)
    });
    // The problems of an earlier version are not those of the specified one, which may solve them.
    let rollout = if is_current {
        rollout
    } else {
        ConditionResult::pending("NotRolledOut", "the previous version stays until the new one can be rolled out")
    };
    let counts = live.status.unwrap_or_default();
    let (replicas, ready_replicas) = (counts.replicas.unwrap_or(0), counts.ready_replicas.unwrap_or(0));
    Observed { rollout, available, running: Some(Running { image, replicas, ready_replicas }) }
}

/// The state of the rollout, and the image that serves. Replica sets and pods are read only if they matter.
async fn progress(
    context: &Context,
    object: &Microservice,
    live: &Deployment,
) -> Result<(ConditionResult, Option<String>), Error> {
    let scaling = &object.spec.scaling;
    let finished = rollout::rolled_out(live, scaling, None, None);
    if finished.is_ready() {
        return Ok((finished, rollout::template_image(live)));
    }
    let selector = live.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
    let selector: Vec<_> = selector.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    let selector = ListParams::default().labels(&selector.join(","));
    let (client, namespace) = (&context.client, &context.settings.namespace);
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let mut sets = with_timeout("list the replica sets", sets.list(&selector)).await?.items;
    sets.retain(|set| is_part_of(&set.metadata, &live.metadata));
    let current = rollout::current(live, &sets);
    let mut pods = Vec::new();
    if let Some(current) = current {
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        pods = with_timeout("list the pods", api.list(&selector)).await?.items;
        pods.retain(|pod| is_part_of(&pod.metadata, &current.metadata));
    }
    let problem = pods::problem(&pods, &context.pull_errors, Timestamp::now());
    let rollout = rollout::rolled_out(live, scaling, current, problem);
    Ok((rollout, rollout::serving_image(&sets)))
}

fn is_part_of(part: &ObjectMeta, whole: &ObjectMeta) -> bool {
    part.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == whole.uid.as_ref())
}

fn api(context: &Context) -> Api<Deployment> {
    Api::namespaced(context.client.clone(), &context.settings.namespace)
}
