//! `operator crd`: prints or applies the `CustomResourceDefinition` of the kind.

use anyhow::{Context, bail};
use api::{Microservice, annotations, crd::document};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, CustomResourceExt, ResourceExt,
    api::{Patch, PatchParams},
};
use semver::Version;

/// How often it is applied while others change it at the same time.
const ATTEMPTS: usize = 5;

/// The definition as YAML.
///
/// # Errors
/// Returns an error if it cannot be serialized.
pub(crate) fn yaml() -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(&document()?)?)
}

/// Applies the definition to the current cluster, unless that has a newer one, and reports what it did.
///
/// # Errors
/// Returns an error if there is no cluster or if it refuses the definition.
pub(crate) fn apply() -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("cannot find the Kubernetes API server")?;
        update(client).await
    })
}

async fn update(client: Client) -> anyhow::Result<String> {
    let (mut definition, name) = (document()?, Microservice::crd_name());
    let ours = Version::parse(env!("CARGO_PKG_VERSION"))?;
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    for _ in 0..ATTEMPTS {
        let found = crds.get_opt(name).await.with_context(|| format!("cannot read {name}"))?;
        if let Some(newer) = found.as_ref().and_then(version).filter(|found| *found > ours) {
            return Ok(format!("kept {name} of version {newer}: it is newer than {ours} and serves both\n"));
        }
        // Without a change in between: a newer release may be doing the same.
        if let Some(version) = found.and_then(|found| found.resource_version()) {
            definition["metadata"]["resourceVersion"] = version.into();
        }
        let parameters = PatchParams::apply("hedgerow-operator").force();
        match crds.patch(name, &parameters, &Patch::Apply(&definition)).await {
            Ok(_) => return Ok(format!("applied {name} of version {ours}\n")),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("cannot apply {name}")),
        }
    }
    bail!("cannot apply {name}: others keep changing it")
}

/// The version that a definition comes from. The first versions did not write it.
fn version(definition: &CustomResourceDefinition) -> Option<Version> {
    definition.annotations().get(annotations::VERSION)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, StatusCode};
    use serde_json::Value;
    use test_support::api_server::ApiServer;

    const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/microservices.hedgerow.dev";

    /// A server with the definition of a version.
    fn installed(version: Option<&str>) -> ApiServer {
        let mut definition = document().expect("a definition");
        definition["metadata"]["annotations"] = Value::Null;
        if let Some(version) = version {
            definition["metadata"]["annotations"] = serde_json::json!({ annotations::VERSION: version });
        }
        let server = ApiServer::default();
        server.put(PATH, definition);
        server
    }

    fn version_on(server: &ApiServer) -> Value {
        server.get(PATH).expect("a definition")["metadata"]["annotations"][annotations::VERSION].clone()
    }

    #[tokio::test]
    async fn a_newer_definition_is_kept() {
        let server = installed(Some("99.1.0"));
        let before = server.get(PATH);
        let report = update(server.client()).await.expect("it is no failure");
        assert!(report.contains("kept") && report.contains("99.1.0"), "{report}");
        assert_eq!(server.get(PATH), before);
        assert_eq!(server.take_writes(), []);
    }

    #[tokio::test]
    async fn an_older_or_unmarked_definition_is_replaced() {
        for before in [Some("0.0.1"), Some(concat!(env!("CARGO_PKG_VERSION"), "-rc.1")), None, Some("nonsense")] {
            let server = installed(before);
            let report = update(server.client()).await.expect("it is applied");
            assert!(report.starts_with("applied"), "{before:?}: {report}");
            assert_eq!(version_on(&server), env!("CARGO_PKG_VERSION"), "{before:?}");
        }
    }

    #[tokio::test]
    async fn a_definition_that_keeps_changing_is_an_error() {
        let server = installed(Some("0.0.1"));
        server.refuse(Method::PATCH, "microservices.hedgerow.dev", StatusCode::CONFLICT, "it has been modified");
        let error = update(server.client()).await.expect_err("it cannot be applied");
        assert!(error.to_string().contains("others keep changing it"), "{error:#}");
        assert_eq!(version_on(&server), "0.0.1");
    }
}
