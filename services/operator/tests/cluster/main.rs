//! The operator on a real API server, with a real Postgres: `make test-cluster`, against the current kube context.
//!
//! All cases share one installation, in a namespace of its own that is deleted at the end; each has objects of its own.

#![expect(clippy::large_futures, reason = "a test has the stack to itself")]

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
    // They run side by side, but for those that take the operator away from the others.
    let together = cases![
        lifecycle::an_object_with_a_database_becomes_ready_and_answers,
        lifecycle::deleted_under_retain_and_taken_up_again,
        lifecycle::deleted_under_delete_nothing_is_left,
        children::a_child_deleted_or_edited_by_hand_is_back,
        children::what_the_spec_no_longer_asks_for_is_deleted,
        children::the_older_object_keeps_the_path,
        databases::a_database_of_somebody_else_is_not_adopted,
        databases::of_two_objects_for_one_database_the_second_is_refused,
        databases::drift_in_the_database_is_repaired,
        databases::a_lost_secret_is_made_anew_and_the_pods_replaced,
        databases::an_admin_that_is_no_superuser_is_enough,
        failures::an_image_that_does_not_exist_is_named_and_its_repair_seen,
        failures::a_crashing_container_is_named_with_its_last_words,
        failures::a_failing_migration_leaves_the_old_version_serving,
        failures::an_older_image_works_on_a_newer_schema,
        failures::a_missing_admin_secret_is_waited_for,
        scaling::the_number_of_pods_passes_to_the_autoscaler_and_back_and_is_never_one,
    ];
    let alone = cases![
        children::a_kind_that_is_installed_later_is_found,
        failures::a_quota_is_named,
        steady::a_steady_state_makes_no_write_but_the_lease,
        leadership::a_leader_that_is_told_to_stop_hands_over_at_once,
        leadership::a_leader_that_dies_is_replaced_within_20_seconds,
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
                // A panic fails the case, and its message is shown.
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
