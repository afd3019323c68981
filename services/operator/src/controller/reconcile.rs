//! Reconciles one object: reads the current state, derives the desired state and writes the difference.
//!
//! A failed step becomes a condition in the status. Independent steps continue.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use tokio::{sync::oneshot, time};

use super::{
    backoff::jittered,
    child::Child,
    conditions::{ConditionResult, ConditionResults},
    context::Context,
    database::{self, ReadyDatabase},
    deploy,
    error::Error,
    finalize,
    migration::{self, Migration},
    queue::Action,
    routes, secret_references, servers,
    status::{self, Outcome},
};
use crate::manifests::{self, Manifests, RenderInputs, pod_monitor};
use api::{Microservice, Route, RouteAuth, identity::RESERVED_NAMES};

/// How often the pods are observed while the database step waits for a server.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);

/// Reconciles one object as far as possible now.
pub(crate) async fn reconcile(object: Arc<Microservice>, context: Arc<Context>) -> Result<Action, Error> {
    let _timer = context.metrics.start();
    if object.metadata.deletion_timestamp.is_some() {
        return finalize::finalize(&object, &context).await;
    }
    let Some(object) = finalize::prepare(object, &context).await? else {
        return Ok(Action::await_change());
    };
    let outcome = Box::pin(reconcile_spec(&object, &context)).await;
    let summary = outcome.results.summary();
    status::write(&context, &object, &outcome).await?;
    let is_unverified = object.spec.database.is_some() && outcome.system_identifier.is_none();
    Ok(Action::requeue(match summary {
        // Others use the server of its database, or it has not responded yet.
        ConditionResult::Ready(..) if is_unverified => context.backoff.wait(&object.name_any(), servers::BUSY),
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
    let siblings = context.objects.state();
    let issuer = context.settings.inputs.authentication.as_ref().and_then(|found| found.issuer.as_ref());
    let route = routes::resolve(object, &siblings, issuer.map(|issuer| &*issuer.service));
    let permitted = match check_name(object) {
        Ok(()) => secret_references::check(context, object, &siblings).await,
        refused => refused,
    };
    let inputs =
        RenderInputs { accepted_paths: route.accepted.clone(), ..context.inputs().with_siblings(object, &siblings) };
    // The children that depend on nothing do not wait for a database server that may not respond.
    let independent = manifests::render(object, &inputs);
    let ((database, ready_database), (mut applied, pods_may_start)) =
        tokio::join!(ensure_database(context, object), apply_independent(context, object, &independent));
    let inputs = RenderInputs {
        credentials_digest: ready_database.as_ref().map(|database| database.credentials_digest.clone()),
        database_ca: ready_database.as_ref().is_some_and(|database| database.ca),
        account_uid: context.children.uid("ServiceAccount", &object.name_any()),
        ..inputs
    };
    let manifests = manifests::render(object, &inputs);

    let found = deploy::read(context, object).await;
    let migration = match (&manifests.migration, &found) {
        (Some(_), Ok(_)) if !pods_may_start => Some(withheld_migration(context, object)),
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
    let trusted = context.trust.check(&context.settings);
    let is_migrated = migrated.as_ref().is_none_or(ConditionResult::is_ready);
    let may_roll_out = permitted.is_ok() && trusted.is_ok() && pods_may_start && has_database && is_migrated;
    let written = match &found {
        Ok(_) if may_roll_out => deploy::roll_out(context, object, &manifests.deployment).await,
        Ok(live) => {
            let is_refused = !has_database && matches!(database, Some(ConditionResult::Stalled(..)));
            let may_start = pods_may_start && permitted.is_ok() && !is_refused;
            deploy::hold(context, object, &manifests.deployment, live.as_ref(), may_start).await
        }
        Err(_) => Ok(None),
    };
    let is_current = may_roll_out && written.is_ok();
    let written = written.unwrap_or_else(|error| {
        record_failure(&mut applied, &error);
        None
    });
    // A Deployment that cannot be changed still runs.
    let live = found.map(|found| written.or(found));
    if let Err(error) = &live {
        record_failure(&mut applied, error);
    }

    let scaling = match (&manifests.autoscaler, &live) {
        (Some(autoscaler), Ok(live)) => Some(deploy::autoscale(context, object, autoscaler, live.is_some()).await),
        (Some(_), Err(error)) => Some(Ok(error.result())),
        (None, _) => None,
    };
    let scaling = scaling.map(|found| {
        found.unwrap_or_else(|error| {
            record_failure(&mut applied, &error);
            error.result()
        })
    });

    let observed = deploy::observe(context, object, live, is_current).await;
    let results = ConditionResults {
        database,
        migrated,
        children: applied
            .and(check_exposure(object, &inputs))
            .err()
            .unwrap_or_else(|| ConditionResult::ready("Applied", "")),
        available: observed.available,
        rollout: permitted.and(trusted).err().unwrap_or(observed.rollout),
        scaling,
        route: object.spec.route.as_ref().map(|spec| route_result(spec, &route)),
    };
    Outcome {
        results,
        running: observed.running,
        schema_version: schema_version.flatten(),
        system_identifier: ready_database.and_then(|database| database.system_identifier),
        port: http_port(&manifests.services[0]),
    }
}

/// Runs the database step. While it waits for a server, the status follows the pods.
async fn ensure_database(context: &Context, object: &Microservice) -> (Option<ConditionResult>, Option<ReadyDatabase>) {
    let Some(spec) = &object.spec.database else { return (None, None) };
    let (running, mut ended) = oneshot::channel::<()>();
    let ensure = async {
        let ensured = database::ensure(context, object, spec).await;
        drop(running);
        ensured
    };
    let observe = async {
        while time::timeout(OBSERVE_INTERVAL, &mut ended).await.is_err() {
            let observed = deploy::observe(context, object, deploy::read(context, object).await, true).await;
            if let Err(error) = status::write_observed(context, object, observed).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot write what the pods do");
            }
        }
    };
    let ((result, ready_database), ()) = tokio::join!(ensure, observe);
    (Some(result), ready_database)
}

/// Applies the children that depend on nothing, and deletes those that are no longer specified. Also returns whether
/// pods may start: they need their identity and their isolation, but can wait for the rest.
async fn apply_independent(
    context: &Context,
    object: &Microservice,
    manifests: &Manifests,
) -> (Result<(), ConditionResult>, bool) {
    let independent = match independent(manifests) {
        Ok(independent) => independent,
        Err(error) => return (Err(error.result()), false),
    };
    let (mut applied, mut pods_may_start) = (Ok(()), true);
    for child in &independent {
        if let Err(error) = context.children.apply(object, child).await {
            record_failure(&mut applied, &error);
            pods_may_start &= !matches!(child.kind.kind.as_str(), "ServiceAccount" | "NetworkPolicy");
        }
    }
    let dependent = [
        Some(("Deployment", manifests.deployment.name_any())),
        manifests.autoscaler.as_ref().map(|autoscaler| ("HorizontalPodAutoscaler", autoscaler.name_any())),
    ];
    let dependent = dependent.into_iter().flatten().map(|(kind, name)| (kind.to_owned(), name));
    let keep: Vec<_> = independent.iter().map(Child::key).chain(dependent).collect();
    if let Err(error) = context.children.prune(object, &keep).await {
        record_failure(&mut applied, &error);
    }
    (applied, pods_may_start)
}

/// A migration that is not started because its pod may not start.
fn withheld_migration(context: &Context, object: &Microservice) -> Migration {
    Migration {
        result: ConditionResult::pending("NotRolledOut", "waiting for the ServiceAccount and the network policies"),
        schema_version: context.statuses.last(object).and_then(|status| status.database?.schema_version),
    }
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

/// Refuses an object that the API server would no longer admit: it may be older than the names that are reserved.
fn check_name(object: &Microservice) -> Result<(), ConditionResult> {
    let name = object.name_any();
    if !RESERVED_NAMES.contains(&&*name) {
        return Ok(());
    }
    let message =
        format!("{name} stands for others in tokens or permissions: delete the object, and choose another name");
    Err(ConditionResult::stalled("NameReserved", message))
}

/// Reports a Service whose type is not what the object asks for.
fn check_exposure(object: &Microservice, inputs: &RenderInputs) -> Result<(), ConditionResult> {
    if !manifests::is_exposed(object, inputs) {
        return Ok(());
    }
    let message = "the Service stays ClusterIP, because requests from outside the cluster would need no token: set AUTH \
                   of the operator to required";
    Err(ConditionResult::stalled("Exposed", message))
}

fn route_result(route: &Route, claims: &routes::RouteClaims) -> ConditionResult {
    if let Some(Err(reason)) = route.auth.as_ref().map(RouteAuth::parse) {
        let message = format!("route.auth is not understood, so the gateway refuses all requests: {reason}");
        return ConditionResult::stalled("RouteClosed", message);
    }
    if claims.conflicts.is_empty() {
        return ConditionResult::ready("Accepted", "the gateway serves these paths");
    }
    let conflicts: Vec<_> = claims.conflicts.iter().map(|(path, owner)| format!("{path} belongs to {owner}")).collect();
    ConditionResult::stalled(
        "RouteConflict",
        format!(
            "{}; older objects keep their paths, and the issuer of tokens all below its own: choose other paths, or delete \
             the other object",
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_route_with_rules_that_are_not_understood_is_stalled() {
        let of = |auth: Value| {
            let route = json!({ "paths": ["/orders"], "auth": auth });
            let result =
                route_result(&serde_json::from_value(route).expect("a route"), &routes::RouteClaims::default());
            let (reason, message) = result.text();
            (reason, message.to_owned())
        };
        assert_eq!(of(json!({ "rules": [{ "mode": "optional" }] })).0, "Accepted");
        let (reason, message) = of(json!({ "rules": [{ "claims": {} }] }));
        assert_eq!(reason, "RouteClosed");
        assert!(message.contains("unknown field `claims`"), "{message}");
    }
}
