//! Pods of the bundled Postgres that a failed upgrade left behind. The clock is paused.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time;

use super::{super::bundled, Fixture};

const STATEFUL_SET: &str = "/apis/apps/v1/namespaces/default/statefulsets/hedgerow-postgres";
const POD: &str = "/api/v1/namespaces/default/pods/hedgerow-postgres-0";

/// A release whose `StatefulSet` is at the revision `good`.
fn rolled_back(revision: &str, state: &Value) -> Fixture {
    let mut fixture = Fixture::new(super::plain());
    Arc::get_mut(&mut fixture.context).expect("nobody else has it").settings.bundled_server =
        Some("hedgerow-postgres:5432".to_owned());
    fixture.server.put(
        STATEFUL_SET,
        json!({
            "metadata": { "name": "hedgerow-postgres", "generation": 3 },
            "spec": { "replicas": 1, "selector": {}, "template": {} },
            "status": { "observedGeneration": 3, "updateRevision": "good", "replicas": 1 },
        }),
    );
    let container = json!({
        "name": "postgres", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    });
    let labels = json!({ "controller-revision-hash": revision });
    let pod = json!({
        "metadata": { "name": "hedgerow-postgres-0", "labels": labels }, "status": { "containerStatuses": [container] },
    });
    fixture.server.put(POD, pod);
    fixture
}

fn waiting() -> Value {
    json!({ "waiting": { "reason": "ImagePullBackOff" } })
}

/// Whether the pod is deleted within a minute.
async fn is_replaced(fixture: &Fixture) -> bool {
    let gone = async {
        while fixture.server.get(POD).is_some() {
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = bundled::replace_stuck_pods(&fixture.context) => unreachable!("it never ends"),
        gone = time::timeout(Duration::from_mins(1), gone) => gone.is_ok(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_run_is_replaced_after_a_rollback() {
    assert!(is_replaced(&rolled_back("bad", &waiting())).await);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_runs_or_is_current_is_kept() {
    assert!(!is_replaced(&rolled_back("good", &waiting())).await, "a new pod would be the same");
    assert!(!is_replaced(&rolled_back("bad", &json!({ "running": {} }))).await, "it may be recovering");
    let ready = rolled_back("bad", &waiting());
    let mut set = ready.server.get(STATEFUL_SET).expect("the StatefulSet");
    set["status"]["readyReplicas"] = 1.into();
    ready.server.put(STATEFUL_SET, set);
    assert!(!is_replaced(&ready).await, "it is ready");
}
