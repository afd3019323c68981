//! The Deployment: its manifest, its replica count and its progress.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
};

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
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::{Value, json};

use super::{
    child::Child,
    conditions::ConditionResult,
    context::Context,
    error::{Error, with_timeout},
    existing::Claim,
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
    // Before the write: it may take effect although its response is lost.
    context.held.forget(&object.uid().unwrap_or_default());
    apply(context, object, Child::typed(manifest)?).await
}

/// Keeps what was rolled out last, while nothing new may be: undoes edits, and restores the Deployment if it was deleted
/// and pods `may_start`. `manifest` is the specified Deployment, of which only the metadata counts. Returns the resulting
/// Deployment if anything was written.
pub(crate) async fn hold(
    context: &Context,
    object: &Microservice,
    manifest: &Deployment,
    live: Option<&Deployment>,
    may_start: bool,
) -> Result<Option<Deployment>, Error> {
    let uid = object.uid().unwrap_or_default();
    let spec = match (context.held.get(&uid), live) {
        (_, None) if !may_start => None,
        (Some(held), _) => Some(held),
        (None, Some(_)) => context.held.read(context, object).await?,
        (None, None) => None,
    };
    let Some(spec) = spec else { return Ok(None) };
    let held = DynamicObject { types: None, metadata: manifest.metadata.clone(), data: json!({ "spec": spec }) };
    apply(context, object, Child::new(&held, ApiResource::erase::<Deployment>(&()))?).await
}

async fn apply(context: &Context, object: &Microservice, child: Child) -> Result<Option<Deployment>, Error> {
    let made = context.children.apply(object, &child.with_replicas(replicas(&object.spec.scaling))).await?;
    Ok(made.map(|made| serde_json::from_value(serde_json::to_value(made)?)).transpose()?)
}

/// The specifications of Deployments while nothing new may be rolled out, by uid of the object. Each is what ran when
/// that began, or when this replica began to lead.
#[derive(Default)]
pub(crate) struct HeldDeployments(Mutex<HashMap<String, Value>>);

impl HeldDeployments {
    fn get(&self, uid: &str) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Reads and remembers the specification of the live Deployment, with the fields that this version does not know.
    async fn read(&self, context: &Context, object: &Microservice) -> Result<Option<Value>, Error> {
        let kind = ApiResource::erase::<Deployment>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &context.settings.namespace, &kind);
        let found = with_timeout("read the Deployment", api.get_opt(&object.name_any())).await?;
        let Some(mut found) = found.filter(|found| Claim::of(&found.metadata, object).is_valid()) else {
            return Ok(None);
        };
        let mut spec = found.data["spec"].take();
        if let Some(fields) = spec.as_object_mut() {
            fields.remove("replicas");
            fields.remove("paused");
        }
        let uid = object.uid().unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, spec.clone());
        Ok(Some(spec))
    }

    /// Forgets that of an object that was deleted, or may roll out again.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
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
    let problem = match pods::problem(&pods, &context.pull_errors, Timestamp::now()) {
        // Another leader saw the error long ago.
        Some(ConditionResult::Pending(pods::IMAGE_PULL, message)) if was_stalled(context, object, pods::IMAGE_PULL) => {
            Some(ConditionResult::stalled(pods::IMAGE_PULL, message))
        }
        problem => problem,
    };
    let rollout = rollout::rolled_out(live, scaling, current, problem);
    Ok((rollout, rollout::serving_image(&sets)))
}

/// Whether the last status says that the object is stalled for this reason, as it is specified now.
fn was_stalled(context: &Context, object: &Microservice, reason: &str) -> bool {
    let status = context.statuses.last(object);
    status.iter().flat_map(|status| &status.conditions).any(|condition| {
        let is_current = condition.observed_generation == object.metadata.generation;
        condition.type_ == "Stalled" && condition.status == "True" && condition.reason == reason && is_current
    })
}

fn is_part_of(part: &ObjectMeta, whole: &ObjectMeta) -> bool {
    part.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == whole.uid.as_ref())
}

fn api(context: &Context) -> Api<Deployment> {
    Api::namespaced(context.client.clone(), &context.settings.namespace)
}
