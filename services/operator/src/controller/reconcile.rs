//! One look at one object: what there is, what there should be, and the difference written.
//!
//! Each step that fails becomes a finding in the status. Steps that do not need each other go on.

use std::sync::Arc;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{ResourceExt, runtime::controller::Action};

use super::{
    Context,
    backoff::jittered,
    children::Child,
    conditions::{Finding, Findings},
    database, deploy,
    error::Error,
    finalize, migration, rollout, routes, status,
};
use crate::manifests::{self, Facts, pod_monitor};
use api::Microservice;

/// Brings one object to what it asks for, as far as that goes now.
pub(crate) async fn reconcile(object: Arc<Microservice>, context: Arc<Context>) -> Result<Action, Error> {
    context.leading().await;
    let _look = context.queue.begin(&object.name_any());
    let _timer = context.metrics.begin();
    if object.metadata.deletion_timestamp.is_some() {
        return finalize::finalize(&object, &context).await;
    }
    finalize::prepare(&object, &context).await?;
    let outcome = Box::pin(bring_about(&object, &context)).await;
    let verdict = outcome.findings.verdict();
    status::write(&context, &object, &outcome).await?;
    Ok(Action::requeue(match verdict {
        Finding::Good(..) => {
            context.backoff.forget(&object.name_any());
            jittered(context.settings.resync)
        }
        // Neither pods nor databases are watched.
        Finding::Pending(reason, _) | Finding::Wrong(reason, _) => context.backoff.wait(&object.name_any(), reason),
    }))
}

/// What a look at an object brought to light.
pub(crate) struct Outcome {
    pub(crate) findings: Findings,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) schema_version: Option<i64>,
    pub(crate) port: Option<i32>,
}

async fn bring_about(object: &Microservice, context: &Context) -> Outcome {
    let owner = object.uid().unwrap_or_default();
    let siblings = context.objects.state();
    let route = routes::judge(object, &siblings);
    let (database, usable) = match &object.spec.database {
        Some(spec) => {
            let (finding, usable) = database::ensure(context, object, spec).await;
            (Some(finding), usable)
        }
        None => (None, None),
    };
    let facts = Facts {
        accepted_paths: route.accepted.clone(),
        credentials: usable.as_ref().map(|usable| usable.credentials.clone()),
        database_ca: usable.as_ref().is_some_and(|usable| usable.ca),
        ..context.facts().among(object, &siblings)
    };
    let children = manifests::render(object, &facts);
    let name = children.deployment.name_any();
    let mut applied = apply_independent(context, &owner, &children).await;

    let found = deploy::read(context, &name).await;
    let migration = match (&children.migration, &found) {
        (Some(job), Ok(found)) => Some(migration::gate(context, object, job, found.as_ref(), usable.as_ref()).await),
        _ => None,
    };
    let (migrated, schema_version) = migration.map(|migration| (migration.finding, migration.schema_version)).unzip();
    let gated = [&database, &migrated].into_iter().flatten().any(|finding| !finding.is_good());
    let deployed = match found {
        Ok(found) => deploy::write(object, context, &owner, &children, found, gated).await,
        Err(error) => Err(error),
    };
    let deployment = deployed.unwrap_or_else(|error| {
        note(&mut applied, &error);
        None
    });
    let scaling = match &children.autoscaler {
        Some(autoscaler) => Some(deploy::autoscale(context, &owner, autoscaler, deployment.is_some()).await),
        None => None,
    };
    let scaling = scaling.map(|found| {
        found.unwrap_or_else(|error| {
            note(&mut applied, &error);
            error.finding()
        })
    });

    let rollout = match &deployment {
        None => Finding::pending("NotRolledOut", "no pod has been started yet"),
        Some(deployment) => deploy::progress(object, context, deployment).await,
    };
    let findings = Findings {
        database,
        migrated,
        children: applied.err().unwrap_or_else(|| Finding::good("Applied", "")),
        available: rollout::available(deployment.as_ref()),
        rollout,
        scaling,
        route: object.spec.route.as_ref().map(|_| route_finding(&route)),
    };
    Outcome { findings, deployment, schema_version: schema_version.flatten(), port: http_port(&children.services[0]) }
}

/// Applies the children that wait for nothing, and deletes those that are no longer asked for.
async fn apply_independent(context: &Context, owner: &str, children: &manifests::Children) -> Result<(), Finding> {
    let independent = independent(children).map_err(|error| error.finding())?;
    let mut applied = Ok(());
    for child in &independent {
        if let Err(error) = context.children.apply(owner, child).await {
            note(&mut applied, &error);
        }
    }
    let dependent = [
        Some(("Deployment", children.deployment.name_any())),
        children.migration.as_ref().map(|job| ("Job", job.name_any())),
        children.autoscaler.as_ref().map(|autoscaler| ("HorizontalPodAutoscaler", autoscaler.name_any())),
    ];
    let dependent = dependent.into_iter().flatten().map(|(kind, name)| (kind.to_owned(), name));
    let wanted: Vec<_> = independent.iter().map(Child::key).chain(dependent).collect();
    if let Err(error) = context.children.prune(owner, &wanted).await {
        note(&mut applied, &error);
    }
    applied
}

fn independent(children: &manifests::Children) -> Result<Vec<Child>, Error> {
    let mut all = vec![Child::typed(&children.service_account)?];
    for service in &children.services {
        all.push(Child::typed(service)?);
    }
    for policy in &children.network_policies {
        all.push(Child::typed(policy)?);
    }
    if let Some(budget) = &children.disruption_budget {
        all.push(Child::typed(budget)?);
    }
    if let Some(monitor) = &children.pod_monitor {
        all.push(Child::new(monitor, pod_monitor::resource())?);
    }
    Ok(all)
}

fn route_finding(verdict: &routes::Verdict) -> Finding {
    if verdict.taken.is_empty() {
        return Finding::good("Accepted", "the gateway has these paths");
    }
    let taken: Vec<_> = verdict.taken.iter().map(|(path, owner)| format!("{path} belongs to {owner}")).collect();
    Finding::wrong("RouteConflict", format!("{}, which is older", taken.join(", ")))
}

/// Keeps the first failure.
fn note(applied: &mut Result<(), Finding>, error: &Error) {
    tracing::warn!(error = error as &dyn std::error::Error, "a step failed");
    if applied.is_ok() {
        *applied = Err(error.finding());
    }
}

fn http_port(service: &Service) -> Option<i32> {
    let mut ports = service.spec.as_ref()?.ports.iter().flatten();
    ports.find(|port| port.name.as_deref() == Some("http")).map(|port| port.port)
}
