//! The pods that serve: their Deployment, their number, and how they are.

use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    Context,
    children::{self, Child},
    conditions::Finding,
    error::{Error, within},
    rollout,
};
use crate::manifests;
use api::Microservice;

/// The Deployment as it is.
pub(crate) async fn read(context: &Context, name: &str) -> Result<Option<Deployment>, Error> {
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    within("reading the Deployment", api.get_opt(name)).await
}

/// Writes the Deployment, unless something before it is not done, and the number of pods, in any case. Returns it as it
/// is then.
pub(crate) async fn write(
    object: &Microservice,
    context: &Context,
    owner: &str,
    children: &manifests::Children,
    found: Option<Deployment>,
    gated: bool,
) -> Result<Option<Deployment>, Error> {
    let (name, scaling) = (children.deployment.name_any(), &object.spec.scaling);
    let child = Child::typed(&children.deployment)?;
    let mut written = false;
    if let Some(found) = &found {
        let replicas = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let wanted = if scaling.is_automatic() { replicas } else { scaling.min };
        // Before the apply without a number: a field that its only writer no longer mentions falls back to one pod.
        if replicas != wanted || children::owns_replicas(found) {
            context.children.scale(&name, wanted).await?;
            written = true;
        }
        if !gated {
            written |= context.children.apply(owner, &child).await?;
        }
    } else if !gated {
        context.children.apply(owner, &child.with_replicas(scaling.min)).await?;
        context.children.scale(&name, scaling.min).await?;
        written = true;
    }
    if written { read(context, &name).await } else { Ok(found) }
}

/// Applies the autoscaler, once there is something to scale: before, it would only complain.
pub(crate) async fn autoscale(
    context: &Context,
    owner: &str,
    autoscaler: &HorizontalPodAutoscaler,
    deployed: bool,
) -> Result<Finding, Error> {
    if !deployed {
        return Ok(Finding::pending("AutoscalerStarting", "there is nothing to scale yet"));
    }
    context.children.apply(owner, &Child::typed(autoscaler)?).await?;
    let api: Api<HorizontalPodAutoscaler> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let found = within("reading the autoscaler", api.get_opt(&autoscaler.name_any())).await?;
    Ok(rollout::scaling(found.as_ref()))
}

/// Whether the version asked for is the only one, and what the pods say where it is not.
pub(crate) async fn progress(object: &Microservice, context: &Context, deployment: &Deployment) -> Finding {
    let look = |pods: &[Pod]| rollout::rolled_out(deployment, &object.spec.scaling, pods, Timestamp::now());
    let found = look(&[]);
    if found.is_good() {
        return found;
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let selector = deployment.spec.as_ref().map(|spec| &spec.selector).and_then(|s| s.match_labels.clone());
    let selector: Vec<_> = selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    match within("reading the pods", api.list(&ListParams::default().labels(&selector.join(",")))).await {
        Ok(pods) => look(&pods.items),
        Err(error) => error.finding(),
    }
}
