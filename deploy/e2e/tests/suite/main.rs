//! The chart on a real cluster, end to end: `make e2e`, against the current kube context.
//!
//! The cases share one release, in a namespace of its own that is deleted at the end, and run one after the other in
//! this order: each leaves the release as it found it.

#![expect(clippy::large_futures, reason = "a test has the stack to itself")]

mod command;
mod data;
mod failures;
mod first;
mod gateway;
mod isolation;
mod prometheus;
mod release;
mod removal;
mod rollouts;
mod scaling;
mod server;
mod together;
mod tool;
mod traffic;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};

use release::Release;

type Case = fn(Arc<Release>) -> Pin<Box<dyn Future<Output = ()>>>;

/// Names a case after its function.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        [$((stringify!($case), (|release| Box::pin($module::$case(release))) as Case)),*]
    };
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = cases![
        first::the_notes_lead_to_a_first_request,
        first::helm_test_passes,
        first::operator_and_gateway_may_do_what_the_manifests_say,
        first::everything_rendered_is_accepted_strictly,
        isolation::credentials_open_their_own_database_only,
        isolation::only_who_is_admitted_connects,
        traffic::two_replicas_share_the_load,
        prometheus::every_pod_is_scraped_and_every_request_counted,
        rollouts::an_upgrade_and_its_rollback_fail_no_request,
        rollouts::evictions_and_deletions_fail_no_request,
        rollouts::a_failing_migration_leaves_the_old_version_serving,
        rollouts::an_upgrade_without_a_change_restarts_nothing,
        gateway::requests_of_one_connection_go_to_every_pod,
        gateway::an_upgrade_behind_the_gateway_and_of_it_fails_no_request,
        gateway::evictions_and_deletions_behind_the_gateway_and_of_it_fail_no_request,
        gateway::fewer_pods_fail_no_request,
        gateway::killed_pods_fail_no_request_that_may_be_repeated,
        gateway::a_route_is_live_at_once_and_gone_at_once,
        gateway::the_older_of_two_keeps_its_path,
        gateway::clients_do_not_notice_that_the_api_server_is_away,
        gateway::a_node_port_leads_in_from_outside,
        scaling::the_autoscaler_follows_the_load,
        scaling::a_service_of_ones_own_gets_everything,
        together::a_wishlist_has_the_stock_of_inventory,
        together::calls_balance_over_the_pods,
        together::a_hot_product_is_not_oversold_though_pods_go,
        data::data_outlive_every_pod,
        data::a_lost_password_of_the_admin_is_made_anew,
        data::a_dump_brings_lost_data_back,
        isolation::nothing_was_refused,
        removal::a_new_release_finds_the_data_though_its_operators_die,
        server::another_server_is_as_good,
        failures::an_install_that_cannot_succeed_fails_and_says_why,
    ];
    if arguments.list {
        let trials = cases.iter().map(|(name, _)| Trial::test(*name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let release = Arc::new(runtime.block_on(Release::first()));
    let trials = cases.iter().map(|(name, case)| {
        let (handle, case, release) = (runtime.handle().clone(), *case, release.clone());
        Trial::test(*name, move || {
            // A panic fails the case, and its message is shown.
            handle.block_on(case(release));
            Ok(())
        })
    });
    let ended = libtest_mimic::run(&Arguments { test_threads: Some(1), ..arguments }, trials.collect());
    runtime.block_on(async {
        if ended.has_failed() {
            release.describe().await;
        }
        release.end().await;
    });
    ended.exit_code()
}
