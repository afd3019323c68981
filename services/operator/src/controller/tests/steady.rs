//! Settled objects.

use serde_json::json;
use test_support::api_server::ApiServer;
use tokio::time;

use super::{
    AUTOSCALER, DEPLOYMENT, OBJECT, condition,
    replica::{Replica, idle, put},
    settings,
};

#[tokio::test(start_paused = true)]
async fn a_settled_object_without_a_database_causes_no_requests() {
    let Replica { server, .. } = &settled().await;
    drop(server.take_requests());
    time::sleep(settings().resync * 4).await;
    let mut requests = server.take_requests();
    // A watch ends after some minutes, and a kind that is not installed cannot be watched.
    requests.retain(|(_, path)| !path.contains("watch=true") && path != "/apis/monitoring.coreos.com/v1");
    assert_eq!(requests, []);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_settled_deployment_shows_in_the_status() {
    let Replica { server, .. } = &settled().await;
    let mut deployment = server.get(DEPLOYMENT).expect("a Deployment");
    deployment["status"]["availableReplicas"] = 0.into();
    deployment["status"]["readyReplicas"] = 0.into();
    server.put(DEPLOYMENT, deployment);
    idle().await;
    let status = &server.get(OBJECT).expect("the object")["status"];
    assert_eq!(condition(status, "Ready")["status"], "False", "{status:#}");
}

/// A replica with an autoscaled object that is ready.
async fn settled() -> Replica {
    let replica = Replica::start(ApiServer::default(), settings());
    let server = &replica.server;
    put(server, "orders", 2, 4);
    replica.lead();
    idle().await;
    let mut deployment = server.get(DEPLOYMENT).expect("a Deployment");
    deployment["status"] = json!({
        "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "observedGeneration": deployment["metadata"]["generation"],
    });
    server.put(DEPLOYMENT, deployment);
    idle().await;
    let mut autoscaler = server.get(AUTOSCALER).expect("an autoscaler");
    autoscaler["status"] = json!({
        "desiredReplicas": 2, "conditions": [{ "type": "ScalingActive", "status": "True" }],
    });
    server.put(AUTOSCALER, autoscaler);
    idle().await;
    let status = &server.get(OBJECT).expect("the object")["status"];
    assert_eq!(condition(status, "Ready")["status"], "True", "{status:#}");
    replica
}
