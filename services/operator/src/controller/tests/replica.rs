//! A replica of the operator. The clock is paused in its tests, so it advances only while all tasks are idle.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::api_server::ApiServer;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    super::{Controller, Settings},
    OBJECT,
};
use crate::{
    leadership::{Leadership, Role},
    metrics::Metrics,
};

/// Longer than anything in these tests takes.
const LONG: Duration = Duration::from_mins(1);

/// A replica that follows at first.
pub(super) struct Replica {
    pub(super) server: ApiServer,
    role: watch::Sender<Role>,
}

impl Replica {
    pub(super) fn start(server: ApiServer, settings: Settings) -> Self {
        let (role, leadership) = watch::channel(Role::Follower);
        let metrics = Metrics::new(prometheus::Registry::new()).expect("metrics");
        let controller = Controller::new(server.client(), settings, "test".to_owned(), metrics, Leadership(leadership));
        tokio::spawn(controller.expect("a controller").run());
        Self { server, role }
    }

    pub(super) fn lead(&self) {
        self.role.send_replace(Role::Leader(Instant::now() + LONG * 60));
    }
}

/// Waits until all tasks are idle.
pub(super) async fn idle() {
    time::sleep(LONG).await;
}

/// Writes an object with this number of pods, as a user does.
pub(super) fn put(server: &ApiServer, name: &str, min: i32, max: i32) {
    let object: Value = json!({
        "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice",
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-of-{name}"), "generation": 1 },
        "spec": { "image": "localhost/orders:1", "scaling": { "min": min, "max": max } },
    });
    server.put(&OBJECT.replace("orders", name), object);
}
