//! Reconciles against an in-memory API server that fails or that others write to.

mod bundled;
mod databases;
mod finalize;
mod finalizer;
mod leadership;
mod migration;
mod ownership;
mod replica;
mod rollouts;
mod secret_references;
mod steady;
mod trust;
mod watches;

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use kube::{
    api::DynamicObject,
    runtime::{reflector, watcher},
};
use serde_json::{Value, json};
use test_support::api_server::ApiServer;
use tokio::sync::watch;

use super::{
    children,
    context::{Context, Settings},
    reconcile::reconcile,
};
use crate::{
    database::Owner,
    manifests::{Authentication, Issuer, RenderInputs},
    metrics::Metrics,
};
use api::Microservice;
use identity::Mode;

const OBJECT: &str = "/apis/hedgerow.dev/v1alpha1/namespaces/default/microservices/orders";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/orders";
const SERVICE: &str = "/api/v1/namespaces/default/services/orders";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/orders";
const AUTOSCALER: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/orders";

fn settings() -> Settings {
    Settings {
        namespace: "default".to_owned(),
        installation: "test".to_owned(),
        database_server: "hedgerow-postgres".to_owned(),
        bundled_server: None,
        inputs: RenderInputs::default(),
        issuers: Vec::new(),
        resync: Duration::from_mins(5),
        concurrency: 1,
        configuration: None,
    }
}

/// One object, its controller and its API server.
struct Fixture {
    server: ApiServer,
    context: Arc<Context>,
    store: reflector::store::Writer<Microservice>,
    pod_monitors_found: watch::Sender<bool>,
}

impl Fixture {
    fn new(spec: Value) -> Self {
        Self::with(spec, settings())
    }

    fn with(spec: Value, settings: Settings) -> Self {
        let server = ApiServer::default();
        server.put(
            "/api/v1/namespaces/kube-system",
            json!({ "metadata": { "name": "kube-system", "uid": "the-cluster" } }),
        );
        let (pod_monitors_found, pod_monitors) = watch::channel(false);
        let (objects, mut store) = reflector::store();
        store.apply_watcher_event(&watcher::Event::Init);
        store.apply_watcher_event(&watcher::Event::InitDone);
        let metrics = Metrics::new(prometheus::Registry::new()).expect("metrics");
        let context = Context::new(server.client(), settings, "test".to_owned(), metrics, objects, pod_monitors);
        let mut fixture = Self { server, context: Arc::new(context), store, pod_monitors_found };
        fixture.apply(spec, 1);
        fixture
    }

    /// Writes the spec as a user does.
    fn apply(&mut self, spec: Value, generation: i64) {
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

    /// Reconciles once, after delivering pending watch events.
    async fn reconcile(&mut self) -> Value {
        let object: Microservice =
            serde_json::from_value(self.server.get(OBJECT).expect("the object")).expect("a Microservice");
        self.store.apply_watcher_event(&watcher::Event::Apply(object.clone()));
        for kind in children::kinds() {
            for name in ["orders", "orders-headless"] {
                let group = if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
                let path = format!("/{group}/{}/namespaces/default/{}/{name}", kind.version, kind.plural);
                if let Some(child) = self.server.get(&path) {
                    let child: DynamicObject = serde_json::from_value(child).expect("an object");
                    self.context.children.observe(&kind, &child, true);
                }
            }
        }
        reconcile(Arc::new(object), self.context.clone()).await.expect("the reconcile succeeds");
        self.server.get(OBJECT).expect("the object")["status"].clone()
    }

    fn deployed(&self, ready: i64) {
        let mut deployment = self.server.get(DEPLOYMENT).expect("a Deployment");
        let replicas = deployment["spec"]["replicas"].clone();
        deployment["status"] = json!({
            "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": ready, "availableReplicas": ready,
            "observedGeneration": deployment["metadata"]["generation"],
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
async fn a_settled_object_causes_no_writes() {
    let mut fixture = Fixture::new(plain());
    fixture.reconcile().await;
    fixture.deployed(3);
    fixture.reconcile().await;
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "{status:#}");
    drop(fixture.server.take_writes());
    for _ in 0..3 {
        fixture.reconcile().await;
    }
    assert_eq!(fixture.server.take_writes(), []);
}

#[tokio::test]
async fn a_foreign_object_is_not_taken_over() {
    let mut fixture = Fixture::new(plain());
    let foreign = json!({ "metadata": { "name": "orders" }, "spec": { "selector": { "app": "theirs" } } });
    fixture.server.put(SERVICE, foreign);
    let before = fixture.server.get(SERVICE);
    let status = fixture.reconcile().await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("Conflict")), "{status:#}");
    assert!(stalled["message"].as_str().expect("a text").contains("Service orders"), "{stalled}");
    assert_eq!(fixture.server.get(SERVICE), before);
    assert!(fixture.server.get(DEPLOYMENT).is_some(), "the other children do not wait for it");

    fixture.server.delete(SERVICE);
    fixture.reconcile().await;
    fixture.deployed(3);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "it recovers once the conflict is gone: {status:#}");
}

/// The API server refuses such a name, but the object may be older than that.
#[tokio::test]
async fn an_object_with_a_reserved_name_starts_no_pod() {
    let fixture = Fixture::new(plain());
    let status = reconcile_as(&fixture, "hedgerow-admin", plain()).await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("NameReserved")), "{status:#}");
    assert!(fixture.server.get(&DEPLOYMENT.replace("orders", "hedgerow-admin")).is_none());
}

#[tokio::test]
async fn an_open_gateway_is_not_exposed() {
    let fixture = Fixture::new(plain());
    let spec = json!({ "image": "localhost/gateway:1", "service": { "type": "LoadBalancer" } });
    let status = reconcile_as(&fixture, "gateway", spec).await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("Exposed")), "{status:#}");
    let service = fixture.server.get(&SERVICE.replace("orders", "gateway")).expect("a Service");
    assert_eq!(service["spec"]["type"], "ClusterIP");
}

#[tokio::test]
async fn a_service_gets_no_path_below_those_of_the_issuer() {
    let mut settings = settings();
    let issuer = Issuer { service: "users".to_owned(), url: "https://shop.example".to_owned(), port: 8080 };
    settings.inputs.authentication = Some(Authentication { mode: Mode::Required, issuer: Some(issuer) });
    let spec = json!({ "image": "localhost/orders:1", "route": { "paths": ["/auth/login", "/orders"] } });
    let mut fixture = Fixture::with(spec, settings);
    let spec = json!({ "image": "localhost/users:1", "route": { "paths": ["/auth"] } });
    let mut users = Microservice::new("users", serde_json::from_value(spec).expect("a spec"));
    users.metadata.namespace = Some("default".to_owned());
    fixture.store.apply_watcher_event(&watcher::Event::Apply(users));
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "RouteAccepted")["reason"], "RouteConflict", "{status:#}");
    let service = fixture.server.get(SERVICE).expect("a Service");
    let route = service["metadata"]["annotations"]["hedgerow.dev/route"].as_str().expect("a route");
    assert!(route.contains(r#""paths":["/orders"]"#), "{route}");
}

/// Reconciles an object of another name once.
async fn reconcile_as(fixture: &Fixture, name: &str, spec: Value) -> Value {
    let path = OBJECT.replace("orders", name);
    let mut object = fixture.server.get(OBJECT).expect("the object");
    object["metadata"]["name"] = name.into();
    object["spec"] = spec;
    fixture.server.put(&path, object.clone());
    let object = serde_json::from_value(object).expect("a Microservice");
    reconcile(Arc::new(object), fixture.context.clone()).await.expect("the reconcile succeeds");
    fixture.server.get(&path).expect("the object")["status"].clone()
}

#[tokio::test]
async fn one_failing_child_does_not_block_the_others() {
    let mut fixture = Fixture::new(plain());
    fixture.server.refuse(Method::POST, "/services", StatusCode::INTERNAL_SERVER_ERROR, "etcd is unavailable");
    let status = fixture.reconcile().await;
    assert!(fixture.server.get(ACCOUNT).is_some() && fixture.server.get(DEPLOYMENT).is_some());
    let ready = condition(&status, "Ready");
    assert_eq!(ready["status"], "False");
    assert!(ready["message"].as_str().expect("a text").contains("etcd is unavailable"), "{ready}");
    fixture.server.stop_refusing();
    fixture.reconcile().await;
    assert!(fixture.server.get(SERVICE).is_some());
}

#[tokio::test]
async fn an_exceeded_quota_is_reported_and_retried() {
    let mut fixture = Fixture::new(plain());
    let message = "services \"orders\" is forbidden: exceeded quota: small, requested: services=1";
    fixture.server.refuse(Method::POST, "/services", StatusCode::FORBIDDEN, message);
    let status = fixture.reconcile().await;
    let reconciling = condition(&status, "Reconciling");
    assert_eq!((&reconciling["status"], &reconciling["reason"]), (&json!("True"), &json!("QuotaExceeded")));
    assert!(reconciling["message"].as_str().expect("a text").contains(message));
}

#[tokio::test]
async fn an_edited_or_deleted_child_is_restored() {
    let mut fixture = Fixture::new(plain());
    fixture.reconcile().await;
    let good = fixture.server.get(SERVICE).expect("a Service")["spec"].clone();
    let mut edited = fixture.server.get(SERVICE).expect("a Service");
    edited["spec"]["selector"] = json!({ "app": "theirs" });
    fixture.server.put(SERVICE, edited);
    fixture.reconcile().await;
    let selector = &fixture.server.get(SERVICE).expect("a Service")["spec"]["selector"];
    assert_eq!(selector["app.kubernetes.io/name"], good["selector"]["app.kubernetes.io/name"]);

    let kind = &children::kinds()[1];
    let gone: DynamicObject =
        serde_json::from_value(fixture.server.get(SERVICE).expect("a Service")).expect("an object");
    fixture.server.delete(SERVICE);
    fixture.context.children.observe(kind, &gone, false);
    fixture.reconcile().await;
    assert_eq!(fixture.server.get(SERVICE).expect("it is back")["spec"], good);
}

#[tokio::test]
async fn handing_replicas_to_the_autoscaler_never_scales_to_one() {
    let mut fixture = Fixture::new(plain());
    fixture.reconcile().await;
    fixture.reconcile().await;
    fixture.apply(json!({ "image": "localhost/orders:1", "scaling": { "min": 3, "max": 9 } }), 2);
    fixture.reconcile().await;
    assert!(fixture.server.get(AUTOSCALER).is_some());
    // The autoscaler writes 7.
    let mut deployment = fixture.server.get(DEPLOYMENT).expect("a Deployment");
    deployment["spec"]["replicas"] = 7.into();
    fixture.server.put(DEPLOYMENT, deployment);
    fixture.reconcile().await;
    fixture.apply(json!({ "image": "localhost/orders:2", "scaling": { "min": 3, "max": 9 } }), 3);
    fixture.reconcile().await;
    assert_eq!(fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["replicas"], 7);
    fixture.apply(json!({ "image": "localhost/orders:2", "scaling": { "min": 4, "max": 4 } }), 4);
    fixture.reconcile().await;
    assert_eq!(fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["replicas"], 4);
    assert!(fixture.server.get(AUTOSCALER).is_none(), "it is no longer specified");
    let replicas = fixture.server.replicas();
    assert!(replicas.iter().all(|replicas| *replicas >= 3), "{replicas:?}");
}

#[tokio::test]
async fn a_missing_admin_secret_blocks_only_the_pods() {
    let spec = json!({ "image": "localhost/orders:1", "database": {}, "scaling": { "min": 2, "max": 2 } });
    let mut fixture = Fixture::new(spec);
    let status = fixture.reconcile().await;
    let ready = condition(&status, "DatabaseReady");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ServerSecretMissing")), "{status:#}");
    assert!(ready["message"].as_str().expect("a text").contains("hedgerow-postgres"));
    assert!(fixture.server.get(SERVICE).is_some());
    assert!(fixture.server.get(DEPLOYMENT).is_none(), "pods wait for the database");
}

#[tokio::test]
async fn the_bundled_server_gets_one_permanent_password() {
    let fixture = Fixture::new(plain());
    let secrets = &fixture.context.secrets;
    let (made, again) =
        tokio::join!(secrets.ensure_bundled("admin", "db:5432"), secrets.ensure_bundled("admin", "db:5432"));
    let (made, again) = (made.expect("a Secret"), again.expect("a Secret"));
    assert_eq!(made, again, "although neither found a Secret");
    let [url, password] = ["url", "password"].map(|key| String::from_utf8(made[key].0.clone()).expect("text"));
    assert_eq!((url, password.len()), (format!("postgres://postgres:{password}@db:5432/postgres"), 32));
    let secret = fixture.server.get("/api/v1/namespaces/default/secrets/admin").expect("a Secret");
    assert_eq!(secret["metadata"]["ownerReferences"], Value::Null, "it outlives the operator, like the data");
    drop(fixture.server.take_writes());
    assert_eq!(secrets.ensure_bundled("admin", "db:5432").await.expect("a Secret"), made);
    assert_eq!(fixture.server.take_writes(), []);
}

#[tokio::test]
async fn a_secret_that_was_replaced_since_it_was_read_is_not_overwritten() {
    let fixture = Fixture::new(plain());
    let (path, secrets) = ("/api/v1/namespaces/default/secrets/orders-database", &fixture.context.secrets);
    let owner = Owner::new("the-cluster", "test", "default", "orders").expect("an owner");
    let annotations = json!({ "hedgerow.dev/mark": owner.to_string() });
    fixture.server.put(path, json!({ "metadata": { "name": "orders-database", "annotations": annotations } }));
    let object = serde_json::from_value(fixture.server.get(OBJECT).expect("the object")).expect("a Microservice");
    let read = secrets.find(&object, &owner).await.expect("a response").expect("a Secret");
    fixture.server.put(path, json!({ "metadata": { "name": "orders-database" }, "data": { "theirs": "eA==" } }));
    let theirs = fixture.server.get(path);
    let desired = json!({ "metadata": { "name": "orders-database", "labels": { "app": "orders" } } });
    let desired = serde_json::from_value(desired).expect("a Secret");
    assert!(secrets.store(Some(&read), &desired).await.is_err());
    assert_eq!(fixture.server.get(path), theirs);
}

#[tokio::test]
async fn the_policy_of_a_callee_follows_its_callers() {
    let policy = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/orders";
    let mut fixture = Fixture::new(plain());
    let admits_users = |fixture: &Fixture| {
        fixture.server.get(policy).expect("a policy")["spec"]["ingress"].to_string().contains("users")
    };
    fixture.reconcile().await;
    assert!(!admits_users(&fixture));
    let caller = |calls: &[&str]| {
        let spec = json!({ "image": "localhost/users:1", "calls": calls });
        let mut caller = Microservice::new("users", serde_json::from_value(spec).expect("a spec"));
        caller.metadata.namespace = Some("default".to_owned());
        watcher::Event::Apply(caller)
    };
    fixture.store.apply_watcher_event(&caller(&["orders"]));
    fixture.reconcile().await;
    assert!(admits_users(&fixture));
    fixture.store.apply_watcher_event(&caller(&[]));
    fixture.reconcile().await;
    assert!(!admits_users(&fixture));
}
