//! What the controller does when the API server misbehaves, or another hand was faster.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use kube::{
    api::DynamicObject,
    runtime::{reflector, watcher},
};
use serde_json::{Value, json};
use test_support::api_server::ApiServer;
use tokio::{sync::watch, time};

use super::{Context, Settings, children, reconcile::reconcile};
use crate::{manifests::Facts, metrics::Metrics};
use api::Microservice;

const OBJECT: &str = "/apis/hedgerow.dev/v1alpha1/namespaces/default/microservices/orders";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/orders";
const SERVICE: &str = "/api/v1/namespaces/default/services/orders";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/orders";
const AUTOSCALER: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/orders";

/// One object, its controller and its API server.
struct Scene {
    server: ApiServer,
    context: Arc<Context>,
    store: reflector::store::Writer<Microservice>,
    leads: watch::Sender<bool>,
    _pod_monitors: watch::Sender<bool>,
}

impl Scene {
    fn new(spec: Value) -> Self {
        let server = ApiServer::default();
        let (leads, leading) = watch::channel(true);
        let (pod_monitors_found, pod_monitors) = watch::channel(false);
        let (objects, mut store) = reflector::store();
        store.apply_watcher_event(&watcher::Event::Init);
        store.apply_watcher_event(&watcher::Event::InitDone);
        let settings = Settings {
            namespace: "default".to_owned(),
            installation: "test".to_owned(),
            database_server: "hedgerow-postgres".to_owned(),
            bundled_server: None,
            facts: Facts::default(),
            resync: Duration::from_mins(5),
            concurrency: 1,
        };
        let metrics = Metrics::new(prometheus::Registry::new()).expect("metrics");
        let context =
            Context::new(server.client(), settings, "test".to_owned(), metrics, objects, leading, pod_monitors);
        let mut scene = Self { server, context: Arc::new(context), store, leads, _pod_monitors: pod_monitors_found };
        scene.ask(spec, 1);
        scene
    }

    /// The user writes the spec.
    fn ask(&mut self, spec: Value, generation: i64) {
        let mut object = self.server.get(OBJECT).unwrap_or_else(|| {
            json!({
                "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice",
                "metadata": { "name": "orders", "namespace": "default", "uid": "the-uid" },
            })
        });
        object["spec"] = spec;
        object["metadata"]["generation"] = generation.into();
        self.server.put(OBJECT, object);
        drop(self.server.take_writes());
    }

    /// One look, with what the watches would have shown before it.
    async fn look(&mut self) -> Value {
        let object: Microservice =
            serde_json::from_value(self.server.get(OBJECT).expect("the object")).expect("a Microservice");
        self.store.apply_watcher_event(&watcher::Event::Apply(object.clone()));
        for kind in children::kinds() {
            for name in ["orders", "orders-headless"] {
                let group = if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
                let path = format!("/{group}/{}/namespaces/default/{}/{name}", kind.version, kind.plural);
                if let Some(child) = self.server.get(&path) {
                    let child: DynamicObject = serde_json::from_value(child).expect("an object");
                    self.context.children.note(&kind, &child, true);
                }
            }
        }
        reconcile(Arc::new(object), self.context.clone()).await.expect("the look ends");
        self.server.get(OBJECT).expect("the object")["status"].clone()
    }

    fn deployed(&self, ready: i64) {
        let mut deployment = self.server.get(DEPLOYMENT).expect("a Deployment");
        let replicas = deployment["spec"]["replicas"].clone();
        deployment["status"] = json!({
            "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": ready, "availableReplicas": ready,
        });
        self.server.put(DEPLOYMENT, deployment);
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let conditions = status["conditions"].as_array().expect("conditions");
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn plain() -> Value {
    json!({ "image": "localhost/orders:1", "scaling": { "min": 3, "max": 3 } })
}

#[tokio::test]
async fn a_steady_state_makes_no_write() {
    let mut scene = Scene::new(plain());
    scene.look().await;
    scene.deployed(3);
    scene.look().await;
    let status = scene.look().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "{status:#}");
    drop(scene.server.take_writes());
    for _ in 0..3 {
        scene.look().await;
    }
    assert_eq!(scene.server.take_writes(), []);
}

#[tokio::test]
async fn one_that_does_not_lead_writes_nothing() {
    let mut scene = Scene::new(plain());
    scene.leads.send_replace(false);
    let look = time::timeout(Duration::from_millis(200), scene.look()).await;
    assert!(look.is_err(), "it waits until it leads");
    assert_eq!(scene.server.take_writes(), []);
    scene.leads.send_replace(true);
    scene.look().await;
    assert!(scene.server.get(DEPLOYMENT).is_some());
}

#[tokio::test]
async fn a_child_of_somebody_else_is_not_taken_over() {
    let mut scene = Scene::new(plain());
    let foreign = json!({ "metadata": { "name": "orders" }, "spec": { "selector": { "app": "theirs" } } });
    scene.server.put(SERVICE, foreign);
    let before = scene.server.get(SERVICE);
    let status = scene.look().await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("Conflict")), "{status:#}");
    assert!(stalled["message"].as_str().expect("a text").contains("Service orders"), "{stalled}");
    assert_eq!(scene.server.get(SERVICE), before);
    assert!(scene.server.get(DEPLOYMENT).is_some(), "the others do not wait for it");

    scene.server.delete(SERVICE);
    scene.look().await;
    scene.deployed(3);
    let status = scene.look().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "it heals by itself: {status:#}");
}

#[tokio::test]
async fn one_failing_child_does_not_block_the_others() {
    let mut scene = Scene::new(plain());
    scene.server.refuse(Method::PATCH, "/serviceaccounts/", StatusCode::INTERNAL_SERVER_ERROR, "etcd has lost it");
    let status = scene.look().await;
    assert!(scene.server.get(SERVICE).is_some() && scene.server.get(DEPLOYMENT).is_some());
    let ready = condition(&status, "Ready");
    assert_eq!(ready["status"], "False");
    assert!(ready["message"].as_str().expect("a text").contains("etcd has lost it"), "{ready}");
    scene.server.stop_refusing();
    scene.look().await;
    assert!(scene.server.get(ACCOUNT).is_some());
}

#[tokio::test]
async fn a_quota_is_named_and_waited_for() {
    let mut scene = Scene::new(plain());
    let message = "services \"orders\" is forbidden: exceeded quota: small, requested: services=1";
    scene.server.refuse(Method::PATCH, "/services/", StatusCode::FORBIDDEN, message);
    let status = scene.look().await;
    let reconciling = condition(&status, "Reconciling");
    assert_eq!((&reconciling["status"], &reconciling["reason"]), (&json!("True"), &json!("QuotaExceeded")));
    assert!(reconciling["message"].as_str().expect("a text").contains(message));
}

#[tokio::test]
async fn a_child_that_is_edited_or_deleted_comes_back() {
    let mut scene = Scene::new(plain());
    scene.look().await;
    let good = scene.server.get(SERVICE).expect("a Service")["spec"].clone();
    let mut edited = scene.server.get(SERVICE).expect("a Service");
    edited["spec"]["selector"] = json!({ "app": "theirs" });
    scene.server.put(SERVICE, edited);
    scene.look().await;
    let selector = &scene.server.get(SERVICE).expect("a Service")["spec"]["selector"];
    assert_eq!(selector["app.kubernetes.io/name"], good["selector"]["app.kubernetes.io/name"]);

    let kind = &children::kinds()[1];
    let gone: DynamicObject = serde_json::from_value(scene.server.get(SERVICE).expect("a Service")).expect("an object");
    scene.server.delete(SERVICE);
    scene.context.children.note(kind, &gone, false);
    scene.look().await;
    assert_eq!(scene.server.get(SERVICE).expect("it is back")["spec"], good);
}

#[tokio::test]
async fn the_number_of_pods_passes_to_the_autoscaler_and_back_and_is_never_one() {
    let mut scene = Scene::new(plain());
    scene.look().await;
    scene.look().await;
    scene.ask(json!({ "image": "localhost/orders:1", "scaling": { "min": 3, "max": 9 } }), 2);
    scene.look().await;
    assert!(scene.server.get(AUTOSCALER).is_some());
    // The autoscaler writes 7.
    let mut deployment = scene.server.get(DEPLOYMENT).expect("a Deployment");
    deployment["spec"]["replicas"] = 7.into();
    scene.server.put(DEPLOYMENT, deployment);
    scene.look().await;
    scene.ask(json!({ "image": "localhost/orders:2", "scaling": { "min": 3, "max": 9 } }), 3);
    scene.look().await;
    assert_eq!(scene.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["replicas"], 7);
    scene.ask(json!({ "image": "localhost/orders:2", "scaling": { "min": 4, "max": 4 } }), 4);
    scene.look().await;
    assert_eq!(scene.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["replicas"], 4);
    assert!(scene.server.get(AUTOSCALER).is_none(), "it is no longer asked for");
    let replicas = scene.server.replicas();
    assert!(replicas.iter().all(|replicas| *replicas >= 3), "{replicas:?}");
}

#[tokio::test]
async fn policy_of_a_callee_follows_its_callers() {
    let policy = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/orders";
    let mut scene = Scene::new(plain());
    let admits_users =
        |scene: &Scene| scene.server.get(policy).expect("a policy")["spec"]["ingress"].to_string().contains("users");
    scene.look().await;
    assert!(!admits_users(&scene));
    let caller = |calls: &[&str]| {
        let spec = json!({ "image": "localhost/users:1", "calls": calls });
        let mut caller = Microservice::new("users", serde_json::from_value(spec).expect("a spec"));
        caller.metadata.namespace = Some("default".to_owned());
        watcher::Event::Apply(caller)
    };
    scene.store.apply_watcher_event(&caller(&["orders"]));
    scene.look().await;
    assert!(admits_users(&scene));
    scene.store.apply_watcher_event(&caller(&[]));
    scene.look().await;
    assert!(!admits_users(&scene));
}

#[tokio::test]
async fn a_missing_admin_secret_is_named_and_holds_back_nothing_else() {
    let spec = json!({ "image": "localhost/orders:1", "database": {}, "scaling": { "min": 2, "max": 2 } });
    let mut scene = Scene::new(spec);
    let status = scene.look().await;
    let ready = condition(&status, "DatabaseReady");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ServerSecretMissing")), "{status:#}");
    assert!(ready["message"].as_str().expect("a text").contains("hedgerow-postgres"));
    assert!(scene.server.get(SERVICE).is_some());
    assert!(scene.server.get(DEPLOYMENT).is_none(), "pods wait for the database");
}

#[tokio::test]
async fn the_bundled_server_gets_one_password_and_keeps_it() {
    let scene = Scene::new(plain());
    let secrets = &scene.context.secrets;
    let (made, again) = tokio::join!(secrets.bundled("admin", "db:5432"), secrets.bundled("admin", "db:5432"));
    let (made, again) = (made.expect("a Secret"), again.expect("a Secret"));
    assert_eq!(made, again, "though both found none");
    let [url, password] = ["url", "password"].map(|key| String::from_utf8(made[key].0.clone()).expect("text"));
    assert_eq!((url, password.len()), (format!("postgres://postgres:{password}@db:5432/postgres"), 32));
    let secret = scene.server.get("/api/v1/namespaces/default/secrets/admin").expect("a Secret");
    assert_eq!(secret["metadata"]["ownerReferences"], Value::Null, "it outlives the operator, as the data do");
    drop(scene.server.take_writes());
    assert_eq!(secrets.bundled("admin", "db:5432").await.expect("a Secret"), made);
    assert_eq!(scene.server.take_writes(), []);
}
