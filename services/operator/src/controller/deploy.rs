//! The Deployment: its manifest, its replica count and its progress.

use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    children::{self, Child},
    conditions::ConditionResult,
    context::Context,
    error::{Error, with_timeout},
    rollout,
};
use api::Microservice;

/// Returns the current Deployment. It is read only if it has not settled.
pub(crate) async fn read(context: &Context, name: &str) -> Result<Option<Deployment>, Error> {
    if let Some(settled) = context.observed.deployment(name, context.children.version("Deployment", name)) {
        return Ok(Some(settled));
    }
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    with_timeout("read the Deployment", api.get_opt(name)).await
}

/// Sets the replica count of the Deployment if it exists. Returns the resulting Deployment.
pub(crate) async fn scale(
    context: &Context,
    object: &Microservice,
    found: Option<Deployment>,
) -> Result<Option<Deployment>, Error> {
    let written = match &found {
        Some(existing) => set_replicas(context, object, existing).await?,
        None => false,
    };
    if written { read(context, &object.name_any()).await } else { Ok(found) }
}

/// Applies the Deployment and sets its replica count. Returns the resulting Deployment.
pub(crate) async fn roll_out(
    context: &Context,
    object: &Microservice,
    owner_uid: &str,
    manifest: &Deployment,
    found: Option<Deployment>,
) -> Result<Option<Deployment>, Error> {
    let (name, child) = (manifest.name_any(), Child::typed(manifest)?);
    if let Some(existing) = &found {
        // Must precede the apply: it omits the count, and a field that its only manager omits is reset to one replica.
        let scaled = set_replicas(context, object, existing).await?;
        let applied = context.children.apply(owner_uid, &child).await?;
        if !scaled && !applied {
            return Ok(found);
        }
    } else {
        let replicas = object.spec.scaling.min;
        context.children.apply(owner_uid, &child.with_replicas(replicas)).await?;
        context.children.scale(&name, replicas).await?;
    }
    read(context, &name).await
}

/// Sets the replica count of an existing Deployment, unless the autoscaler does. Returns whether anything was written.
async fn set_replicas(context: &Context, object: &Microservice, existing: &Deployment) -> Result<bool, Error> {
    let scaling = &object.spec.scaling;
    let replicas = existing.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let desired = if scaling.is_automatic() { replicas } else { scaling.min };
    if replicas == desired && !children::owns_replicas(existing) {
        return Ok(false);
    }
    context.children.scale(&existing.name_any(), desired).await?;
    Ok(true)
}

/// Applies the autoscaler once the Deployment exists. Before that it would only report errors.
pub(crate) async fn autoscale(
    context: &Context,
    owner_uid: &str,
    autoscaler: &HorizontalPodAutoscaler,
    deployed: bool,
) -> Result<ConditionResult, Error> {
    if !deployed {
        return Ok(ConditionResult::pending("AutoscalerStarting", "waiting for the Deployment"));
    }
    let (child, name) = (Child::typed(autoscaler)?, autoscaler.name_any());
    context.children.apply(owner_uid, &child).await?;
    if let Some(observed) = context.observed.scaling(&name, context.children.version(&child.kind.kind, &name)) {
        return Ok(observed);
    }
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let found = with_timeout("read the autoscaler", api.get_opt(&name)).await?;
    Ok(rollout::scaling(found.as_ref()))
}

/// Whether the rollout has finished, with the problem of the pods if it has not.
pub(crate) async fn progress(context: &Context, object: &Microservice, deployment: &Deployment) -> ConditionResult {
    let check = |pods: &[Pod]| rollout::rolled_out(deployment, &object.spec.scaling, pods, Timestamp::now());
    let found = check(&[]);
    if found.is_ready() {
        return found;
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let selector = deployment.spec.as_ref().map(|spec| &spec.selector).and_then(|s| s.match_labels.clone());
    let selector: Vec<_> = selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    match with_timeout("list the pods", api.list(&ListParams::default().labels(&selector.join(",")))).await {
        Ok(pods) => check(&pods.items),
        Err(error) => error.result(),
    }
}
