//! Reconciles one object: reads the current state, derives the desired state and writes the difference.
//!
//! A failed step becomes a condition in the status. Independent steps continue.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::{ResourceExt, runtime::controller::Action};

use super::{
    backoff::jittered,
    children::Child,
    conditions::{ConditionResult, ConditionResults},
    context::Context,
    database, deploy,
    error::Error,
    finalize, migration, rollout, routes, secret_references,
    status::{self, Outcome},
};
use crate::manifests::{self, Manifests, RenderInputs, pod_monitor};
use api::Microservice;

/// Reconciles one object as far as possible now.
pub(crate) async fn reconcile(object: Arc<Microservice>, context: Arc<Context>) -> Result<Action, Error> {
    context.leading().await;
    let _running = context.queue.start(&object.name_any());
    let _timer = context.metrics.start();
    if object.metadata.deletion_timestamp.is_some() {
        return finalize::finalize(&object, &context).await;
    }
    finalize::prepare(&object, &context).await?;
    let outcome = Box::pin(reconcile_spec(&object, &context)).await;
    let summary = outcome.results.summary();
    status::write(&context, &object, &outcome).await?;
    Ok(Action::requeue(match summary {
        ConditionResult::Ready(..) => {
            context.backoff.forget(&object.name_any());
            jittered(context.settings.resync)
        }
        // Pods and databases are not watched, so poll.
        ConditionResult::Pending(reason, _) | ConditionResult::Stalled(reason, _) => {
            context.backoff.wait(&object.name_any(), reason)
        }
    }))
}

async fn reconcile_spec(object: &Microservice, context: &Context) -> Outcome {
    let uid = object.uid().unwrap_or_default();
    let siblings = context.objects.state();
    let route = routes::resolve(object, &siblings);
    let permitted = secret_references::check(context, object, &siblings).await;
    let inputs =
        RenderInputs { accepted_paths: route.accepted.clone(), ..context.inputs().with_siblings(object, &siblings) };
    let ensure_database = async {
        match &object.spec.database {
            Some(spec) => {
                let (result, ready_database) = database::ensure(context, object, spec).await;
                (Some(result), ready_database)
            }
            None => (None, None),
        }
    };
    // The children that depend on nothing do not wait for a database server that may not respond.
    let independent = manifests::render(object, &inputs);
    let ((database, ready_database), mut applied) =
        tokio::join!(ensure_database, apply_independent(context, &uid, &independent));
    let inputs = RenderInputs {
        credentials_digest: ready_database.as_ref().map(|database| database.credentials_digest.clone()),
        database_ca: ready_database.as_ref().is_some_and(|database| database.ca),
        ..inputs
    };
    let manifests = manifests::render(object, &inputs);

    let found = deploy::read(context, &manifests.deployment.name_any()).await;
    let migration = match (&manifests.migration, &found) {
        (Some(job), Ok(found)) if permitted.is_ok() => {
            Some(migration::ensure(context, object, job, found.as_ref(), ready_database.as_ref()).await)
        }
        _ => None,
    };
    let (migrated, schema_version) = migration.map(|migration| (migration.result, migration.schema_version)).unzip();
    if let (Some(spec), Some(ConditionResult::Pending(..))) = (&object.spec.database, &migrated)
        && ready_database.as_ref().is_some_and(|database| database.is_exhausted)
    {
        database::make_room(context, object, spec).await;
    }
    // A database that was ready before can be used even if it could not be verified now.
    let has_database = object.spec.database.is_none() || ready_database.is_some();
    let may_roll_out = permitted.is_ok() && has_database && migrated.as_ref().is_none_or(ConditionResult::is_ready);
    let deployed = match found {
        Ok(found) if may_roll_out => deploy::roll_out(context, object, &uid, &manifests.deployment, found).await,
        Ok(found) => deploy::scale(context, object, found).await,
        Err(error) => Err(error),
    };
    let deployment = deployed.unwrap_or_else(|error| {
        record_failure(&mut applied, &error);
        None
    });
    let scaling = match &manifests.autoscaler {
        Some(autoscaler) => Some(deploy::autoscale(context, &uid, autoscaler, deployment.is_some()).await),
        None => None,
    };
    let scaling = scaling.map(|found| {
        found.unwrap_or_else(|error| {
            record_failure(&mut applied, &error);
            error.result()
        })
    });

    let rollout = match (permitted, &deployment) {
        (Err(refused), _) => refused,
        (Ok(()), None) => ConditionResult::pending(
            "NotRolledOut",
            "waiting for the database and the migration; no pods have been started yet",
        ),
        (Ok(()), Some(deployment)) => deploy::progress(context, object, deployment).await,
    };
    let results = ConditionResults {
        database,
        migrated,
        children: applied.err().unwrap_or_else(|| ConditionResult::ready("Applied", "")),
        available: rollout::available(deployment.as_ref()),
        rollout,
        scaling,
        route: object.spec.route.as_ref().map(|_| route_result(&route)),
    };
    Outcome {
        results,
        deployment,
        schema_version: schema_version.flatten(),
        system_identifier: ready_database.and_then(|database| database.system_identifier),
        port: http_port(&manifests.services[0]),
    }
}

/// Applies the children that depend on nothing, and deletes those that are no longer specified.
async fn apply_independent(context: &Context, owner_uid: &str, manifests: &Manifests) -> Result<(), ConditionResult> {
    let independent = independent(manifests).map_err(|error| error.result())?;
    let mut applied = Ok(());
    for child in &independent {
        if let Err(error) = context.children.apply(owner_uid, child).await {
            record_failure(&mut applied, &error);
        }
    }
    let dependent = [
        Some(("Deployment", manifests.deployment.name_any())),
        manifests.migration.as_ref().map(|job| ("Job", job.name_any())),
        manifests.autoscaler.as_ref().map(|autoscaler| ("HorizontalPodAutoscaler", autoscaler.name_any())),
    ];
    let dependent = dependent.into_iter().flatten().map(|(kind, name)| (kind.to_owned(), name));
    let keep: Vec<_> = independent.iter().map(Child::key).chain(dependent).collect();
    if let Err(error) = context.children.prune(owner_uid, &keep).await {
        record_failure(&mut applied, &error);
    }
    applied
}

fn independent(manifests: &Manifests) -> Result<Vec<Child>, Error> {
    let mut all = vec![Child::typed(&manifests.service_account)?];
    for service in &manifests.services {
        all.push(Child::typed(service)?);
    }
    for policy in &manifests.network_policies {
        all.push(Child::typed(policy)?);
    }
    if let Some(budget) = &manifests.disruption_budget {
        all.push(Child::typed(budget)?);
    }
    if let Some(monitor) = &manifests.pod_monitor {
        all.push(Child::new(monitor, pod_monitor::resource())?);
    }
    Ok(all)
}

fn route_result(claims: &routes::RouteClaims) -> ConditionResult {
    if claims.conflicts.is_empty() {
        return ConditionResult::ready("Accepted", "the gateway serves these paths");
    }
    let conflicts: Vec<_> = claims.conflicts.iter().map(|(path, owner)| format!("{path} belongs to {owner}")).collect();
    ConditionResult::stalled(
        "RouteConflict",
        format!(
            "{}; older objects keep their paths: choose other paths, or delete the older object",
            conflicts.join(", ")
        ),
    )
}

/// Logs a failure and keeps the first one.
fn record_failure(applied: &mut Result<(), ConditionResult>, error: &Error) {
    tracing::warn!(error = error as &dyn std::error::Error, "reconcile step failed");
    if applied.is_ok() {
        *applied = Err(error.result());
    }
}

fn http_port(service: &Service) -> Option<i32> {
    let mut ports = service.spec.as_ref()?.ports.iter().flatten();
    ports.find(|port| port.name.as_deref() == Some("http")).map(|port| port.port)
}
