//! The chart on a real cluster, end to end: `make e2e`, against the current kube context.
//!
//! Most cases share one release, in its own namespace, which is deleted at the end. They run one after the other in this
//! order, and each leaves the release as it found it. Those that take minutes are ignored: `make e2e ALL=1` runs them too.

#![expect(clippy::large_futures, reason = "each case has the whole stack")]

mod command;
mod data;
mod failures;
mod first;
mod gateway;
mod identity;
mod isolation;
mod postgres;
mod prometheus;
mod release;
mod removal;
mod rollouts;
mod scaling;
mod server;
mod together;
mod tool;
mod traffic;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Instant};

use libtest_mimic::{Arguments, Trial};

use release::Release;

type Case = fn(Arc<Release>) -> Pin<Box<dyn Future<Output = ()>>>;

/// Pairs each case with the name of its module and function.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($case)), (|release| Box::pin($module::$case(release))) as Case)),*]
    };
}

/// The cases that take minutes.
const LONG: [&str; 3] = [
    "gateway::upgrading_gateway_or_services_fails_no_request",
    "gateway::an_api_server_outage_fails_no_request",
    "scaling::the_autoscaler_follows_the_load",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = cases![
        first::the_notes_lead_to_a_first_response,
        first::helm_test_passes,
        first::the_roles_equal_those_of_the_manifests,
        first::rendered_objects_pass_strict_validation,
        isolation::credentials_open_only_their_own_database,
        isolation::even_the_superuser_needs_a_password_over_tcp,
        isolation::only_admitted_pods_can_connect,
        traffic::two_replicas_share_the_load,
        prometheus::every_pod_is_scraped_and_every_request_counted,
        rollouts::an_upgrade_and_its_rollback_fail_no_request,
        rollouts::evictions_and_deletions_fail_no_request,
        rollouts::a_failed_migration_leaves_the_old_version_serving,
        rollouts::an_upgrade_without_changes_restarts_nothing,
        rollouts::an_upgrade_of_the_operator_waits_for_the_services,
        gateway::requests_of_one_connection_reach_every_pod,
        gateway::upgrading_gateway_or_services_fails_no_request,
        gateway::replacing_gateway_or_service_pods_fails_no_request,
        gateway::scaling_down_fails_no_request,
        gateway::killed_pods_fail_no_repeatable_request,
        gateway::route_changes_take_effect_immediately,
        gateway::the_older_of_two_services_keeps_its_path,
        gateway::an_api_server_outage_fails_no_request,
        gateway::a_node_port_is_reachable_from_outside,
        scaling::the_autoscaler_follows_the_load,
        scaling::a_minimal_object_becomes_a_complete_service,
        together::a_wishlist_shows_the_stock_from_inventory,
        together::calls_are_balanced_over_the_pods,
        together::deleted_pods_do_not_oversell_a_hot_product,
        data::data_survives_the_loss_of_every_pod,
        data::a_lost_admin_password_is_replaced,
        data::a_dump_restores_lost_data,
        postgres::a_rollback_replaces_a_postgres_that_cannot_start,
        postgres::another_volume_size_is_refused_by_its_name,
        isolation::no_pod_was_rejected,
        removal::a_reinstall_finds_its_data_despite_killed_operators,
        server::an_external_server_works,
        failures::an_impossible_install_fails_and_reports_why,
        identity::the_notes_lead_to_the_first_login,
        identity::sessions_are_refreshed_and_end,
        identity::a_machine_does_what_its_scope_allows,
        identity::a_service_accepts_only_its_callers,
        identity::tokens_of_dex_are_accepted,
        identity::pyjwt_verifies_our_tokens,
        identity::rotated_keys_fail_no_request,
        identity::no_secret_is_in_a_log_or_a_database,
    ];
    if arguments.list {
        let trials = cases
            .iter()
            .map(|(name, _)| Trial::test(*name, || Ok(())).with_ignored_flag(LONG.contains(name)))
            .collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let release = Arc::new(runtime.block_on(Release::first()));
    let trials = cases.iter().map(|(name, case)| {
        let (handle, case, release) = (runtime.handle().clone(), *case, release.clone());
        Trial::test(*name, move || {
            let started = Instant::now();
            // A panic fails the case and prints its message.
            handle.block_on(case(release));
            print!("{} s ", started.elapsed().as_secs());
            Ok(())
        })
        .with_ignored_flag(LONG.contains(name))
    });
    let ended = libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, trials.collect());
    runtime.block_on(async {
        if ended.has_failed() {
            release.describe().await;
        }
        release.end().await;
        identity::Shop::end(ended.has_failed()).await;
    });
    ended.exit_code()
}
