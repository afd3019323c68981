//! A release of the chart, in its own namespace, which enforces the Pod Security Standard `restricted`.

use std::{collections::BTreeMap, ops::Deref, time::Duration};

use api::Microservice;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use serde_json::json;
use test_support::cluster::{Namespace, SOON, eventually, image, is};
use tokio::time::Instant;

use crate::{command::run, tool::names};

/// The services of the chart.
pub const SERVICES: [&str; 3] = ["users", "inventory", "gateway"];

/// The label of the pods of the suite that users and inventory admit.
pub const ADMITTED: &str = "hedgerow.dev/e2e";

/// The values that admit these pods.
const ADMITTING: [&str; 2] = [
    r#"services.users.network.allowFrom=[{"hedgerow.dev/e2e":"admitted"}]"#,
    r#"services.inventory.network.allowFrom=[{"hedgerow.dev/e2e":"admitted"}]"#,
];

pub struct Release {
    namespace: Namespace,
    /// The notes that Helm printed after the first install.
    pub notes: String,
}

impl Deref for Release {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

impl Release {
    /// Installs the release that the cases share, as the README describes.
    pub async fn first() -> Self {
        let mut release = Self::prepare("").await;
        let begun = Instant::now();
        release.notes = release.install(&[]).await.unwrap_or_else(|error| panic!("helm install: {error}"));
        let took = begun.elapsed();
        println!("helm install --wait: {:.1} s", took.as_secs_f64());
        assert!(took < Duration::from_mins(2), "the install took {took:?}, not under two minutes");
        // `--wait` has waited until everything is ready.
        for name in SERVICES {
            let object = release.get(name).await;
            assert!(is(&object, "Ready", "True", "Ready"), "{name}: {:#?}", object.status);
        }
        release
    }

    /// Creates a namespace for a release.
    pub async fn prepare(suffix: &str) -> Self {
        let name = format!("hedgerow-e2e-{}{suffix}", std::process::id());
        Self { namespace: Namespace::create_restricted(name).await, notes: String::new() }
    }

    /// The same release, for another owner.
    pub fn named(other: &Self) -> Self {
        let namespace = Namespace { client: other.client.clone(), name: other.name.clone() };
        Self { namespace, notes: String::new() }
    }

    /// Runs `helm install` with the values of the suite and these.
    pub async fn install(&self, values: &[&str]) -> Result<String, String> {
        self.helm(&["install", "hedgerow", "helm/hedgerow", "--wait", "--timeout", "3m"], values).await
    }

    /// Runs `helm upgrade` with the values of the suite and these.
    pub async fn upgrade(&self, values: &[&str]) -> Result<String, String> {
        self.helm(&["upgrade", "hedgerow", "helm/hedgerow", "--wait", "--timeout", "4m"], values).await
    }

    /// Like [`upgrade`](Self::upgrade), but does not wait until the release is ready.
    pub async fn start_upgrade(&self, values: &[&str]) -> Result<String, String> {
        self.helm(&["upgrade", "hedgerow", "helm/hedgerow"], values).await
    }

    /// Upgrades to a fixed number of pods per service, for cases that count pods. An upgrade without values restores
    /// the autoscaler.
    pub async fn upgrade_to(&self, count: usize, values: &[&str]) {
        self.try_upgrade_to(count, values).await.expect("an upgrade");
        eventually("each service has the requested number of pods", SOON, async || {
            for name in SERVICES {
                if self.pods(name).await.len() != count {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Like [`upgrade_to`](Self::upgrade_to), for an upgrade that may fail.
    pub async fn try_upgrade_to(&self, count: usize, values: &[&str]) -> Result<String, String> {
        let pods = SERVICES.map(|name| format!("services.{name}.scaling={}", json!({ "min": count, "max": count })));
        let values: Vec<_> = pods.iter().map(String::as_str).chain(values.iter().copied()).collect();
        self.upgrade(&values).await
    }

    async fn helm(&self, command: &[&str], values: &[&str]) -> Result<String, String> {
        let installation = format!("operator.installation={}", json!(self.name));
        let users = image("users");
        let (repository, tag) = users.rsplit_once(':').expect("a tag");
        let registry = format!("image.registry={}", json!(repository.trim_end_matches("/users")));
        let tag = format!("image.tag={}", json!(tag));
        let mut arguments = command.to_vec();
        arguments.extend(["--namespace", &self.name]);
        // If a value is set twice, the last one wins.
        for value in [registry.as_str(), &tag, &installation].iter().chain(&ADMITTING).chain(values) {
            arguments.extend(["--set-json", value]);
        }
        run("helm", &arguments).await
    }

    /// Runs `helm uninstall`, and waits until everything is deleted.
    pub async fn uninstall(&self) {
        let arguments = ["uninstall", "hedgerow", "--namespace", &self.name, "--wait", "--timeout", "2m"];
        run("helm", &arguments).await.unwrap_or_else(|error| panic!("helm uninstall: {error}"));
    }

    /// Runs `kubectl` in the namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        run("kubectl", &[&["--namespace", &self.name], arguments].concat()).await
    }

    /// Runs SQL on the bundled Postgres as its superuser.
    pub async fn sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let command = ["psql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qtAc", sql, database];
        self.exec("hedgerow-postgres-0", &command).await
    }

    /// The running pods of the release by name, each with its UID and the number of container restarts.
    pub async fn running(&self) -> BTreeMap<String, (String, i32)> {
        let selector = ListParams::default().labels("app.kubernetes.io/part-of=hedgerow");
        let pods = self.api::<Pod>().list(&selector).await.expect("pods");
        let restarts = |pod: &Pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            statuses.map(|status| status.restart_count).sum()
        };
        let runs = |pod: &&Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
        };
        pods.iter().filter(runs).map(|pod| (pod.name_any(), (pod.uid().unwrap_or_default(), restarts(pod)))).collect()
    }

    /// The names of the operator's pods.
    pub async fn operators(&self) -> Vec<String> {
        let selector = ListParams::default().labels("app.kubernetes.io/name=hedgerow-operator");
        let pods = self.api::<Pod>().list(&selector).await.expect("pods");
        names(&pods.items)
    }

    /// Waits until all pods of the object run this image, and the object is ready.
    pub async fn runs(&self, name: &str, image: &str) -> Microservice {
        let of_image = |object: &Microservice| {
            is(object, "Ready", "True", "Ready")
                && object.status.as_ref().and_then(|status| status.image.as_deref()) == Some(image)
        };
        self.wait(name, &format!("it runs {image}"), of_image).await
    }

    /// Uninstalls the release and deletes the namespace.
    pub async fn end(&self) {
        let _ = run("helm", &["uninstall", "hedgerow", "--namespace", &self.name]).await;
        self.remove().await;
    }
}

/// The image of one of the project's services to upgrade to: the same name with [`next_tag`].
pub fn next(service: &str) -> String {
    let image = image(service);
    format!("{}:{}", image.rsplit_once(':').expect("a tag").0, next_tag())
}

/// The tag of the images to upgrade to: `IMAGE_NEXT`, or `next`.
pub fn next_tag() -> String {
    std::env::var("IMAGE_NEXT").unwrap_or_else(|_| "next".to_owned())
}
