//! Applies the definition of the kind to the cluster.

use anyhow::Context;
use api::{Microservice, crd::document};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, CustomResourceExt,
    api::{Patch, PatchParams},
};

/// Applies it to the cluster that this process finds itself in, and says so.
///
/// # Errors
/// Where there is none, or it refuses.
pub(crate) fn apply() -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("cannot find the API server")?;
        let (definition, name) = (document()?, Microservice::crd_name());
        let crds: Api<CustomResourceDefinition> = Api::all(client);
        let parameters = PatchParams::apply("hedgerow-operator").force();
        crds.patch(name, &parameters, &Patch::Apply(&definition)).await.context("the definition is refused")?;
        Ok(format!("{name} is as version {} has it\n", env!("CARGO_PKG_VERSION")))
    })
}
