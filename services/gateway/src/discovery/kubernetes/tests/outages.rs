//! What happens while the API server is slow, unavailable or incomplete.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time;

use super::{BOTH, Cluster, SERVICES, SLICES, orders_and_users, paths, service};

#[tokio::test(start_paused = true)]
async fn discovery_is_ready_once_both_kinds_are_listed() {
    for kind in ["/services", "/endpointslices"] {
        let server = orders_and_users();
        server.refuse(Method::GET, kind, StatusCode::FORBIDDEN, "no");
        let cluster = Cluster::new(server);
        cluster.until_failures(2.0).await;
        assert!(cluster.discovery.ready().is_err(), "{kind}");
        let known = cluster.discovery.services.borrow().len();
        assert_eq!(known, 0, "a service without its endpoints would look unavailable");
        cluster.server.stop_refusing();
        cluster.until_ready().await;
        cluster.until_addresses(BOTH).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_state_stays_while_the_api_server_is_unavailable() {
    let cluster = Cluster::new(orders_and_users());
    cluster.until_addresses(BOTH).await;
    // Neither lists nor watches succeed.
    cluster.server.refuse(Method::GET, "", StatusCode::SERVICE_UNAVAILABLE, "unavailable");
    cluster.server.break_watches();
    cluster.until_failures(6.0).await;
    cluster.server.delete(&format!("{SERVICES}/orders"));
    cluster.server.forget_history();
    assert!(cluster.discovery.ready().is_ok() && cluster.discovery.live().is_ok());
    cluster.until_addresses(BOTH).await;
    cluster.server.stop_refusing();
    cluster.until_recovered(|services| services.len() == 1).await;
    cluster.until_addresses(&BOTH[1..]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_immediately_is_a_failure() {
    let cluster = Cluster::new(orders_and_users());
    cluster.until_addresses(BOTH).await;
    let _ = cluster.server.take_requests();
    let start = time::Instant::now();
    cluster.server.end_watches();
    cluster.until_failures(12.0).await;
    // At least one of the two watches failed six times, with five pauses in between, each at least half its maximum.
    assert!(start.elapsed() >= Duration::from_millis(50 + 100 + 200 + 400 + 800) / 2, "{:?}", start.elapsed());
    let requests = cluster.server.take_requests();
    assert!(requests.len() <= 12, "{requests:?}");
    cluster.server.stop_ending_watches();
    cluster.server.delete(&format!("{SERVICES}/orders"));
    cluster.until_recovered(|services| services.len() == 1).await;
    cluster.until_addresses(&BOTH[1..]).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_takes_effect_once_it_is_complete() {
    let server = orders_and_users();
    for number in 0..150 {
        service(&server, &format!("a{number:03}"), "2026-01-03T00:00:00Z", &paths(&[&format!("/a{number:03}")]));
    }
    let cluster = Cluster::new(server);
    cluster.until(|services| services.len() == 152).await;
    // Objects have to be listed again, and every list fails after its first page.
    cluster.server.refuse(Method::GET, "continue=", StatusCode::INTERNAL_SERVER_ERROR, "no more");
    cluster.server.delete(&format!("{SERVICES}/a000"));
    cluster.server.forget_history();
    cluster.server.break_watches();
    cluster.until_failures(6.0).await;
    assert!(cluster.discovery.services.borrow().len() >= 151);
    // It was on the first page.
    cluster.server.delete(&format!("{SERVICES}/a002"));
    cluster.server.stop_refusing();
    service(&cluster.server, "a001", "2026-01-03T00:00:00Z", &paths(&["/changed"]));
    cluster.until_recovered(|services| services[0].paths == ["/changed"]).await;
    assert_eq!(cluster.discovery.services.borrow().len(), 150);
}

#[tokio::test(start_paused = true)]
async fn only_two_lists_and_two_watches_are_requested() {
    let cluster = Cluster::new(orders_and_users());
    cluster.until_addresses(BOTH).await;
    service(&cluster.server, "carts", "2026-01-03T00:00:00Z", &paths(&["/carts"]));
    cluster.until(|services| services.len() == 3).await;
    let requests = cluster.server.take_requests();
    let count = |part: &str, watches: bool| {
        requests
            .iter()
            .filter(|(_, target)| target.starts_with(part) && target.contains("watch=true") == watches)
            .count()
    };
    let counts = [count(SERVICES, false), count(SERVICES, true), count(SLICES, false), count(SLICES, true)];
    assert_eq!((counts, requests.len()), ([1; 4], 4), "{requests:?}");
}
