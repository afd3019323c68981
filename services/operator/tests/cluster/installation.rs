//! The operator and a Postgres in their own namespace.

use std::{fs, ops::Deref, path::PathBuf};

use api::Microservice;
use k8s_openapi::{
    api::apps::v1::Deployment, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Discovery, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    discovery::Scope,
    runtime::{conditions, wait::await_condition},
};
use serde_json::{Value, json};
use test_support::cluster::{MANAGER, Namespace, SOON, eventually, image, within};

/// The Secret with the superuser credentials of Postgres.
pub const ADMIN: &str = "hedgerow-postgres";

pub struct Installation(Namespace);

impl Deref for Installation {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.0
    }
}

impl Installation {
    /// Installs the manifests of `deploy/operator`, as a user does.
    pub async fn start() -> Self {
        Self::start_as("").await
    }

    /// The same in another namespace, whose name ends with `suffix`.
    pub async fn start_as(suffix: &str) -> Self {
        let this = Self(Namespace::create_restricted(format!("hedgerow-test-{}{suffix}", std::process::id())).await);
        this.start_postgres().await;
        this.admin_secret(ADMIN, "postgres", "test").await;
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
            if !object["kind"].as_str().is_some_and(|kind| kind.starts_with("Cluster")) {
                object["metadata"]["namespace"] = self.name.clone().into();
            }
            if object["kind"] == "RoleBinding" {
                object["subjects"][0]["namespace"] = self.name.clone().into();
            }
            if object["kind"] == "Deployment" {
                let container = &mut object["spec"]["template"]["spec"]["containers"][0];
                container["image"] = image("operator").into();
                // Check for drift often, and keep the databases apart from those of other test runs.
                let variables = container["env"].as_array_mut().expect("variables");
                variables.push(json!({ "name": "RESYNC", "value": "10s" }));
                variables.push(json!({ "name": "INSTALLATION", "value": self.name }));
            }
            let object: DynamicObject = serde_json::from_value(object).expect("manifests");
            let kind = object.types.clone().expect("a kind").try_into().expect("a kind");
            let (kind, capabilities) = discovery.resolve_gvk(&kind).expect("a kind that is there");
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Namespaced => Api::namespaced_with(self.client.clone(), &self.name, &kind),
                Scope::Cluster => Api::all_with(self.client.clone(), &kind),
            };
            api.patch(&object.name_any(), &parameters, &Patch::Apply(&object)).await.expect("applying succeeds");
        }
    }

    pub async fn end(&self) {
        // Objects with a finalizer need the operator, so delete them first.
        let objects: Api<Microservice> = self.api();
        let _ = objects.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        eventually("the objects are gone", SOON, async || {
            objects.list(&ListParams::default()).await.is_ok_and(|objects| objects.items.is_empty())
        })
        .await;
        self.remove().await;
    }
}
