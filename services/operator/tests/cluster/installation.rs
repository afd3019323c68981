//! The operator and a Postgres in a namespace of their own.

use std::{env, fmt::Debug, fs, path::PathBuf, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Namespace, Pod, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Discovery, Resource, ResourceExt,
    api::{AttachParams, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
    discovery::Scope,
    runtime::{conditions, wait::await_condition},
};
use operator::api::Microservice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, time};

/// The longest wait for anything that should happen.
pub const SOON: Duration = Duration::from_mins(2);

/// Who applies what the tests ask for.
const MANAGER: &str = "operator-tests";

/// The Secret that opens Postgres as its superuser.
pub const ADMIN: &str = "hedgerow-postgres";

pub struct Installation {
    pub client: Client,
    pub namespace: String,
}

/// The project's image of a service.
pub fn image(service: &str) -> String {
    let registry = env::var("IMAGE_REGISTRY").unwrap_or_else(|_| "localhost/hedgerow".to_owned());
    let tag = env::var("IMAGE_TAG").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    format!("{registry}/{service}:{tag}")
}

impl Installation {
    /// Installs from the manifests of `deploy/operator`, as a user does.
    pub async fn start() -> Self {
        let client = Client::try_default().await.expect("a kube context");
        let namespace = format!("hedgerow-test-{}", std::process::id());
        let this = Self { client, namespace };
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({ "metadata": { "name": this.namespace, "labels": labels } });
        let namespace: Namespace = serde_json::from_value(namespace).expect("a namespace");
        Api::all(this.client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
        this.postgres().await;
        this.manifests().await;
        let deployments: Api<Deployment> = this.api();
        let available = |deployment: Option<&Deployment>| {
            deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas) == Some(2)
        };
        within("the operator", await_condition(deployments, "hedgerow-operator", available))
            .await
            .expect("it is there");
        this
    }

    async fn postgres(&self) {
        let pod = json!({
            "metadata": { "name": "postgres", "labels": { "app": "postgres" } },
            "spec": {
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "volumes": [{ "name": "run", "emptyDir": {} }],
                "containers": [{
                    "name": "postgres", "image": "postgres:15", "imagePullPolicy": "IfNotPresent",
                    "args": ["postgres", "-c", "max_connections=300"],
                    "env": [{ "name": "POSTGRES_PASSWORD", "value": "test" }],
                    "volumeMounts": [{ "name": "run", "mountPath": "/var/run/postgresql" }],
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                    "readinessProbe": { "exec": { "command": ["pg_isready", "-h", "127.0.0.1"] }, "periodSeconds": 1 },
                }],
            },
        });
        let service = json!({
            "metadata": { "name": "postgres" },
            "spec": { "selector": { "app": "postgres" }, "ports": [{ "port": 5432 }] },
        });
        self.create::<Pod>(pod).await;
        self.create::<k8s_openapi::api::core::v1::Service>(service).await;
        self.admin_secret(ADMIN, "postgres", "test").await;
        let ready = conditions::is_pod_running();
        within("Postgres", await_condition(self.api::<Pod>(), "postgres", ready)).await.expect("it runs");
        eventually("Postgres answers", SOON, async || self.psql("postgres", "SELECT 1").await == Ok("1".to_owned()))
            .await;
    }

    /// The Secret of an admin of the test's server.
    pub async fn admin_secret(&self, name: &str, user: &str, password: &str) {
        let host = format!("postgres.{}.svc", self.namespace);
        let url = format!("postgres://{user}:{password}@{host}:5432/postgres");
        self.create::<Secret>(json!({ "metadata": { "name": name }, "stringData": { "url": url } })).await;
    }

    async fn manifests(&self) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/operator");
        let crd: CustomResourceDefinition =
            serde_saphyr::from_str(&fs::read_to_string(folder.join("crd.yaml")).expect("a CRD")).expect("a CRD");
        let parameters = PatchParams::apply(MANAGER).force();
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        crds.patch(&crd.name_any(), &parameters, &Patch::Apply(&crd)).await.expect("the CRD is taken");
        let established = conditions::is_crd_established();
        within("the CRD", await_condition(crds, &crd.name_any(), established)).await.expect("it is there");

        let discovery = Discovery::new(self.client.clone()).run_aggregated().await.expect("the kinds");
        let text = fs::read_to_string(folder.join("operator.yaml")).expect("manifests");
        for mut object in serde_saphyr::from_multiple::<Value>(&text).expect("manifests") {
            object["metadata"]["namespace"] = self.namespace.clone().into();
            if object["kind"] == "RoleBinding" {
                object["subjects"][0]["namespace"] = self.namespace.clone().into();
            }
            if object["kind"] == "Deployment" {
                let container = &mut object["spec"]["template"]["spec"]["containers"][0];
                container["image"] = image("operator").into();
                // Drift is looked for often, and the databases told from those of other test runs.
                let variables = container["env"].as_array_mut().expect("variables");
                variables.push(json!({ "name": "RESYNC", "value": "10s" }));
                variables.push(json!({ "name": "INSTALLATION", "value": self.namespace }));
            }
            let object: DynamicObject = serde_json::from_value(object).expect("manifests");
            let kind = object.types.clone().expect("a kind").try_into().expect("a kind");
            let (kind, capabilities) = discovery.resolve_gvk(&kind).expect("a kind that is there");
            assert_eq!(capabilities.scope, Scope::Namespaced, "the operator asks for nothing beyond its namespace");
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
            api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await.expect("it is taken");
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + serde::Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        self.api::<K>().create(&PostParams::default(), &object).await.expect("it is taken")
    }

    /// Applies a `Microservice` of this name, as `kubectl apply` does.
    pub async fn apply(&self, name: &str, spec: Value) -> Microservice {
        let object = json!({
            "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": { "name": name }, "spec": spec,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        self.api::<Microservice>().patch(name, &parameters, &Patch::Apply(&object)).await.expect("it is taken")
    }

    pub async fn get(&self, name: &str) -> Microservice {
        self.api::<Microservice>().get(name).await.expect("the object")
    }

    /// Waits until the object is as `condition` wants it, with a status of its current generation.
    pub async fn wait(&self, name: &str, what: &str, condition: impl Fn(&Microservice) -> bool) -> Microservice {
        let met = |object: Option<&Microservice>| {
            object.is_some_and(|object| {
                let observed = object.status.as_ref().map(|status| status.observed_generation);
                observed == object.metadata.generation && condition(object)
            })
        };
        match time::timeout(SOON, await_condition(self.api::<Microservice>(), name, met)).await {
            Ok(object) => object.expect("a watch").expect("an object"),
            Err(time::error::Elapsed { .. }) => {
                panic!("{name}: {what}: not within {SOON:?}: {:#?}", self.get(name).await.status)
            }
        }
    }

    pub async fn ready(&self, name: &str) -> Microservice {
        self.wait(name, "ready", |object| is(object, "Ready", "True", "Ready")).await
    }

    /// Waits until `Ready` is false for this reason, and returns its message.
    pub async fn unready(&self, name: &str, reason: &str) -> String {
        let object = self.wait(name, reason, |object| is(object, "Ready", "False", reason)).await;
        message(&object, "Ready")
    }

    pub async fn delete(&self, name: &str) {
        let api: Api<Microservice> = self.api();
        api.delete(name, &DeleteParams::foreground()).await.expect("it is deleted");
        let gone = |object: Option<&Microservice>| object.is_none();
        within("the object's end", await_condition(api, name, gone)).await.expect("it is gone");
    }

    /// What happened to an object, oldest first.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let selector = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = self.api::<Event>().list(&selector).await.expect("events");
        events
            .into_iter()
            .map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect()
    }

    /// The pods of a service that are not on their way out.
    pub async fn pods(&self, name: &str) -> Vec<Pod> {
        let selector = format!("app.kubernetes.io/name={name},app.kubernetes.io/component=service");
        let pods = self.api::<Pod>().list(&ListParams::default().labels(&selector)).await.expect("pods");
        pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Runs SQL as the superuser.
    pub async fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let command = ["psql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qtAc", sql, database];
        let parameters = AttachParams::default().stdout(true).stderr(true).stdin(false);
        let mut process =
            self.api::<Pod>().exec("postgres", command, &parameters).await.map_err(|error| error.to_string())?;
        let (mut stdout, mut stderr) = (process.stdout().expect("it"), process.stderr().expect("it"));
        let (mut out, mut err) = (String::new(), String::new());
        let (out_read, err_read) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        out_read.and(err_read).expect("text");
        if err.is_empty() { Ok(out.trim().to_owned()) } else { Err(err) }
    }

    /// What a service answers on `path`, through the API server's proxy to its Service.
    pub async fn request(&self, name: &str, path: &str) -> Result<String, kube::Error> {
        let uri = format!("/api/v1/namespaces/{}/services/{name}:http/proxy{path}", self.namespace);
        self.client.request_text(http::Request::get(uri).body(Vec::new()).expect("a request")).await
    }

    /// What a pod answers on its admin port.
    pub async fn metrics(&self, pod: &str) -> String {
        let uri = format!("/api/v1/namespaces/{}/pods/{pod}:9090/proxy/metrics", self.namespace);
        let request = http::Request::get(uri).body(Vec::new()).expect("a request");
        self.client.request_text(request).await.expect("metrics")
    }

    /// Shows what is there, for a look at what failed.
    pub async fn describe(&self) {
        let objects = self.api::<Microservice>().list(&ListParams::default()).await.expect("objects");
        for object in objects {
            println!("{}: {:#?}\n{:#?}", object.name_any(), object.status, self.events(&object.name_any()).await);
        }
    }

    pub async fn end(&self) {
        // What has a finalizer needs the operator, so it goes first.
        let objects: Api<Microservice> = self.api();
        let _ = objects.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        eventually("the objects are gone", SOON, async || {
            objects.list(&ListParams::default()).await.is_ok_and(|objects| objects.items.is_empty())
        })
        .await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
    }
}

/// Whether a condition has this status and reason.
pub fn is(object: &Microservice, kind: &str, status: &str, reason: &str) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.type_ == kind && condition.status == status && condition.reason == reason)
}

pub fn message(object: &Microservice, kind: &str) -> String {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.find(|condition| condition.type_ == kind).map(|condition| condition.message.clone()).unwrap_or_default()
}

/// Waits for `what`, with the deadline.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// Asks again until it is so, for what cannot be watched.
pub async fn eventually(what: &str, deadline: Duration, condition: impl AsyncFn() -> bool) {
    let asked = async {
        while !condition().await {
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    time::timeout(deadline, asked).await.unwrap_or_else(|_| panic!("{what}: not within {deadline:?}"));
}
