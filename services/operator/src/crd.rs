//! `operator crd`: prints or applies the `CustomResourceDefinition` of the kind.

use anyhow::Context;
use api::{Microservice, crd::document};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, CustomResourceExt,
    api::{Patch, PatchParams},
};

/// The definition as YAML.
///
/// # Errors
/// Returns an error if it cannot be serialized.
pub(crate) fn yaml() -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(&document()?)?)
}

/// Applies the definition to the current cluster and reports its version.
///
/// # Errors
/// Returns an error if there is no cluster or if it refuses the definition.
pub(crate) fn apply() -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("cannot find the Kubernetes API server")?;
        let (definition, name) = (document()?, Microservice::crd_name());
        let crds: Api<CustomResourceDefinition> = Api::all(client);
        let parameters = PatchParams::apply("hedgerow-operator").force();
        crds.patch(name, &parameters, &Patch::Apply(&definition))
            .await
            .with_context(|| format!("cannot apply {name}"))?;
        Ok(format!("applied {name} of version {}\n", env!("CARGO_PKG_VERSION")))
    })
}
