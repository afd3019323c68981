//! The operator on a real API server, with a real Postgres: `make test-cluster`, against the current kube context.
//!
//! All cases share one installation in its own namespace, which is deleted at the end. Each case has its own objects.

#![expect(clippy::large_futures, reason = "each test has its own stack")]

mod children;
mod databases;
mod failures;
mod installation;
mod leadership;
mod lifecycle;
mod scaling;
mod steady;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};

use installation::Installation;

type Case = fn(Arc<Installation>) -> Pin<Box<dyn Future<Output = ()>>>;

/// Names a case after its function.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        [$((stringify!($case), (|installation| Box::pin($module::$case(installation))) as Case)),*]
    };
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // These run concurrently.
    let together = cases![
        lifecycle::an_object_with_a_database_becomes_ready_and_serves,
        lifecycle::a_retained_database_is_reused,
        lifecycle::deletion_policy_delete_leaves_nothing_behind,
        lifecycle::the_status_says_why_a_deleted_object_still_exists,
        lifecycle::a_database_does_not_hold_a_deleted_namespace,
        children::a_deleted_or_edited_child_is_restored,
        children::what_others_add_to_a_deployment_goes,
        children::a_restart_by_kubectl_replaces_the_pods,
        children::an_object_created_again_is_never_stalled,
        children::an_emptied_status_is_written_again,
        children::children_no_longer_specified_are_deleted,
        children::the_older_object_keeps_the_path,
        databases::a_foreign_database_is_not_adopted,
        databases::the_second_object_for_a_database_is_refused,
        databases::drift_in_the_database_is_repaired,
        databases::a_lost_secret_is_recreated_and_the_pods_replaced,
        databases::an_admin_need_not_be_a_superuser,
        failures::a_missing_image_is_reported_and_recovered_from,
        failures::a_crashing_container_is_reported_with_its_message,
        failures::a_failed_migration_leaves_the_old_version_serving,
        failures::an_older_image_works_on_a_newer_schema,
        failures::a_missing_admin_secret_is_waited_for,
        scaling::handing_replicas_to_the_autoscaler_never_scales_to_one,
    ];
    // These affect the operator or the namespace, so they run alone.
    let alone = cases![
        children::a_kind_that_is_installed_later_is_used,
        failures::an_exceeded_quota_is_reported,
        steady::settled_objects_cause_no_requests_except_the_lease,
        leadership::a_stopping_leader_is_replaced_within_3_seconds,
        leadership::a_killed_leader_is_replaced_within_20_seconds,
    ];
    if arguments.list {
        let trials = together.iter().chain(&alone).map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let installation = Arc::new(runtime.block_on(Installation::start()));
    let handle = runtime.handle().clone();
    let trials = |cases: &[(&'static str, Case)]| {
        let trial = |(name, case): &(&'static str, Case)| {
            let (handle, case, installation) = (handle.clone(), *case, installation.clone());
            Trial::test(*name, move || {
                // A panic fails the case.
                handle.block_on(case(installation));
                Ok(())
            })
        };
        cases.iter().map(trial).collect::<Vec<_>>()
    };
    let first = libtest_mimic::run(&Arguments { test_threads: Some(6), ..arguments.clone() }, trials(&together));
    let second = libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, trials(&alone));
    let failed = first.has_failed() || second.has_failed();
    runtime.block_on(async {
        if failed {
            installation.describe().await;
        }
        installation.end().await;
    });
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
