//! A namespace of a real cluster, in the current kube context.
//!
//! Every failure panics, which fails the test.

#![expect(clippy::missing_panics_doc, reason = "see the module documentation")]

mod postgres;
mod recorder;

use std::{env, fmt::Debug, time::Duration};

use api::Microservice;
use k8s_openapi::api::core::v1::{Event, Namespace as Object, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
    runtime::wait::await_condition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, time};

pub use recorder::{Moment, Recorder};

/// The deadline for anything that should happen.
pub const SOON: Duration = Duration::from_mins(2);

/// The field manager of the tests.
pub const MANAGER: &str = "hedgerow-tests";

/// A namespace for tests.
pub struct Namespace {
    /// A client for the current kube context.
    pub client: Client,
    /// The name of the namespace.
    pub name: String,
}

impl Namespace {
    /// Creates a namespace that enforces the Pod Security Standard `restricted`.
    pub async fn create_restricted(name: String) -> Self {
        Self::create_enforcing(name, "restricted").await
    }

    /// Creates a namespace that enforces a Pod Security Standard: `restricted`, or `privileged` to allow every pod.
    pub async fn create_enforcing(name: String, standard: &str) -> Self {
        let client = Client::try_default().await.expect("a kube context");
        let labels = json!({ "pod-security.kubernetes.io/enforce": standard });
        let object: Object =
            serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).expect("it");
        Api::all(client.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        Self { client, name }
    }

    /// The API for a kind.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates an object.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        self.api::<K>().create(&PostParams::default(), &object).await.expect("the API server accepts it")
    }

    /// Applies a `Microservice`, as `kubectl apply` does.
    pub async fn apply(&self, name: &str, spec: Value) -> Microservice {
        let object = json!({
            "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": { "name": name }, "spec": spec,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        self.api::<Microservice>()
            .patch(name, &parameters, &Patch::Apply(&object))
            .await
            .expect("the API server accepts it")
    }

    /// The current state of an object.
    pub async fn get(&self, name: &str) -> Microservice {
        self.api::<Microservice>().get(name).await.expect("the object")
    }

    /// Waits until the object satisfies `condition`, with a status of its current generation.
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

    /// Waits until an object is ready.
    pub async fn ready(&self, name: &str) -> Microservice {
        self.wait(name, "ready", |object| is(object, "Ready", "True", "Ready")).await
    }

    /// Waits until `Ready` is false for this reason, and returns its message.
    pub async fn unready(&self, name: &str, reason: &str) -> String {
        let object = self.wait(name, reason, |object| is(object, "Ready", "False", reason)).await;
        message(&object, "Ready")
    }

    /// Deletes an object, and waits until it and its children are gone.
    pub async fn delete(&self, name: &str) {
        let api: Api<Microservice> = self.api();
        api.delete(name, &DeleteParams::foreground()).await.expect("deleting succeeds");
        let gone = |object: Option<&Microservice>| object.is_none();
        within("the object is deleted", await_condition(api, name, gone)).await.expect("the watch succeeds");
    }

    /// The events of an object.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let selector = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let events = self.api::<Event>().list(&selector).await.expect("events");
        events
            .into_iter()
            .map(|event| format!("{}: {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect()
    }

    /// The pods of a service that are not being deleted.
    pub async fn pods(&self, name: &str) -> Vec<Pod> {
        let selector = format!("app.kubernetes.io/name={name},app.kubernetes.io/component=service");
        let pods = self.api::<Pod>().list(&ListParams::default().labels(&selector)).await.expect("pods");
        pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Requests `path` from a service through the API server's proxy.
    ///
    /// # Errors
    /// Returns an error if the service cannot be reached or responds with an error.
    pub async fn request(&self, name: &str, path: &str) -> Result<String, kube::Error> {
        let uri = format!("/api/v1/namespaces/{}/services/{name}:http/proxy{path}", self.name);
        self.client.request_text(http::Request::get(uri).body(Vec::new()).expect("a request")).await
    }

    /// The metrics of a pod.
    pub async fn metrics(&self, pod: &str) -> String {
        let uri = format!("/api/v1/namespaces/{}/pods/{pod}:9090/proxy/metrics", self.name);
        let request = http::Request::get(uri).body(Vec::new()).expect("a request");
        self.client.request_text(request).await.expect("metrics")
    }

    /// Runs a command in a pod and returns its output.
    ///
    /// # Errors
    /// Returns what the command wrote to standard error, if anything.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> Result<String, String> {
        let parameters = AttachParams::default().stdout(true).stderr(true).stdin(false);
        let started = self.api::<Pod>().exec(pod, command.iter().copied(), &parameters).await;
        let mut process = started.map_err(|error| error.to_string())?;
        let (mut stdout, mut stderr) = (process.stdout().expect("it"), process.stderr().expect("it"));
        let (mut out, mut err) = (String::new(), String::new());
        let (out_read, err_read) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        out_read.and(err_read).expect("text");
        if err.is_empty() { Ok(out.trim().to_owned()) } else { Err(err) }
    }

    /// Prints all objects with their events, for diagnosis.
    pub async fn describe(&self) {
        let objects = self.api::<Microservice>().list(&ListParams::default()).await.expect("objects");
        for object in objects {
            println!("{}: {:#?}\n{:#?}", object.name_any(), object.status, self.events(&object.name_any()).await);
        }
    }

    /// Deletes the namespace with everything in it.
    pub async fn remove(&self) {
        let namespaces: Api<Object> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.name, &DeleteParams::default()).await;
    }
}

/// The image of one of the project's services.
#[must_use]
pub fn image(service: &str) -> String {
    let registry = env::var("IMAGE_REGISTRY").unwrap_or_else(|_| "localhost/hedgerow".to_owned());
    let tag = env::var("IMAGE_TAG").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    format!("{registry}/{service}:{tag}")
}

/// Whether a condition has this status and reason.
#[must_use]
pub fn is(object: &Microservice, kind: &str, status: &str, reason: &str) -> bool {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.any(|condition| condition.type_ == kind && condition.status == status && condition.reason == reason)
}

/// The message of a condition, or an empty string if there is no such condition.
#[must_use]
pub fn message(object: &Microservice, kind: &str) -> String {
    let mut conditions = object.status.iter().flat_map(|status| &status.conditions);
    conditions.find(|condition| condition.type_ == kind).map(|condition| condition.message.clone()).unwrap_or_default()
}

/// Waits for `future`, with the deadline [`SOON`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// Polls until `condition` holds, for what cannot be watched.
pub async fn eventually(what: &str, deadline: Duration, condition: impl AsyncFn() -> bool) {
    let asked = async {
        while !condition().await {
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    time::timeout(deadline, asked).await.unwrap_or_else(|_| panic!("{what}: not within {deadline:?}"));
}
