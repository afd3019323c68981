//! What a replica does before it leads and then.

use http::Method;
use test_support::api_server::ApiServer;

use super::{
    super::Settings,
    DEPLOYMENT, OBJECT,
    replica::{Replica, idle, put},
    settings,
};

#[tokio::test(start_paused = true)]
async fn a_new_leader_applies_only_what_it_read_as_leader() {
    let replica = Replica::start(ApiServer::default(), settings());
    put(&replica.server, "orders", 1, 1);
    put(&replica.server, "users", 1, 1);
    idle().await;
    assert_eq!(replica.server.take_writes(), [], "followers write nothing");
    // A watch of the follower would not have delivered this yet.
    replica.server.break_watches();
    put(&replica.server, "orders", 3, 3);
    replica.server.delete(&OBJECT.replace("orders", "users"));
    replica.lead();
    idle().await;
    assert!(replica.server.get(DEPLOYMENT).is_some(), "it acts");
    let counts = replica.server.replicas();
    assert!(counts.iter().all(|count| *count == 3), "an old spec was applied: {counts:?}");
    let writes = replica.server.take_writes();
    assert!(!writes.iter().any(|(_, path)| path.contains("users")), "the object was deleted: {writes:?}");
}

#[tokio::test(start_paused = true)]
async fn objects_are_reconciled_in_the_order_they_became_due() {
    let replica = Replica::start(ApiServer::default(), Settings { concurrency: 1, ..settings() });
    let names: Vec<String> = (0..30).map(|n| format!("object-{n:02}")).collect();
    for name in &names {
        put(&replica.server, name, 1, 1);
    }
    replica.lead();
    idle().await;
    let mut reconciled: Vec<String> = Vec::new();
    for (_, path) in replica.server.take_writes().iter().filter(|(method, _)| *method == Method::PATCH) {
        let name = path.split_once("/microservices/").and_then(|(_, rest)| rest.split_once("/status"));
        if let Some((name, _)) = name.filter(|(name, _)| !reconciled.iter().any(|known| known == name)) {
            reconciled.push(name.to_owned());
        }
    }
    assert_eq!(reconciled, names);
}
