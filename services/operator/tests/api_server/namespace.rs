//! A namespace for a test, and requests to the API server in it.

use std::panic::{AssertUnwindSafe, resume_unwind};

use api::crd;
use futures_util::FutureExt;
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    client::Body,
    discovery,
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};
use test_support::process::{TIMEOUT, eventually};

/// The namespace of a test.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
}

/// Runs a test in a namespace of its own, which enforces the `restricted` Pod Security Standard. The namespace is
/// deleted when the test ends, even if it fails.
pub async fn in_namespace<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Cluster) -> F) {
    let client = Client::try_default().await.expect("a cluster");
    define(&client).await;

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({ "metadata": {
        "generateName": format!("hedgerow-test-{name}-"),
        "labels": { "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted" },
    } });
    let namespace = serde_json::from_value(namespace).expect("a namespace");
    let namespace = namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace").name_any();

    let cluster = Cluster { client, namespace: namespace.clone() };
    let outcome = AssertUnwindSafe(test(cluster)).catch_unwind().await;
    namespaces.delete(&namespace, &DeleteParams::default()).await.expect("the namespace is deleted");
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

/// Applies the `CustomResourceDefinition`.
async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let (definition, params) = (crd::crd(), PatchParams::apply("hedgerow-test").force());
    let name = definition.name_any();
    definitions.patch(&name, &params, &Patch::Apply(&definition)).await.expect("the definition is accepted");
    await_condition(definitions, &name, conditions::is_crd_established()).await.expect("the kind is established");
    // It is established a moment before discovery lists it.
    let version = &definition.spec.versions[0].name;
    let kind = GroupVersionKind::gvk(&definition.spec.group, version, &definition.spec.names.kind);
    let is_listed = async || discovery::pinned_kind(client, &kind).await.ok();
    eventually("the kind is served", TIMEOUT, is_listed).await;
}

impl Cluster {
    /// The API for the kind of `object`.
    pub async fn api(&self, object: &Value) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &self.kind(object).await)
    }

    async fn kind(&self, object: &Value) -> ApiResource {
        let text = |field: &str| object[field].as_str().expect("apiVersion and kind").to_owned();
        let (group, version) = match text("apiVersion").split_once('/') {
            Some((group, version)) => (group.to_owned(), version.to_owned()),
            None => (String::new(), text("apiVersion")),
        };
        let kind = GroupVersionKind { group, version, kind: text("kind") };
        discovery::pinned_kind(&self.client, &kind).await.expect("the kind is served").0
    }

    /// Creates an object as a dry run with strict validation. Returns the warnings, or the error.
    pub async fn try_create(&self, object: &Value) -> Result<Vec<String>, String> {
        let url = DynamicObject::url_path(&self.kind(object).await, Some(&self.namespace));
        self.dry_run(http::Method::POST, &url, object).await
    }

    /// Replaces a stored object as a dry run with strict validation. Returns the warnings, or the error.
    pub async fn try_replace(&self, object: &Value) -> Result<Vec<String>, String> {
        let url = DynamicObject::url_path(&self.kind(object).await, Some(&self.namespace));
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.dry_run(http::Method::PUT, &format!("{url}/{name}"), object).await
    }

    async fn dry_run(&self, method: http::Method, url: &str, object: &Value) -> Result<Vec<String>, String> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{url}?dryRun=All&fieldValidation=Strict"))
            .header("content-type", "application/json")
            .body(Body::from(serde_json::to_vec(object).expect("JSON")))
            .expect("a request");
        let response = self.client.send(request).await.expect("a response");
        let (head, body) = response.into_parts();
        if head.status.is_success() {
            let warnings = head.headers.get_all("warning").iter();
            return Ok(warnings.map(|warning| warning.to_str().expect("text").to_owned()).collect());
        }
        let body = body.collect_bytes().await.expect("a body");
        let status: Value = serde_json::from_slice(&body).expect("a Status");
        Err(status["message"].as_str().expect("a message").to_owned())
    }
}
