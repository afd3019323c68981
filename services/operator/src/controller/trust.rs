//! Publishes the issuers that services trust, as the `ConfigMap` `hedgerow-trust`, and creates the key of the issuer.
//!
//! The cluster is one of the issuers: it signs the tokens by which services prove who they are. The operator copies its
//! keys, so that no service needs access to the API server. Pods see a changed file within about a minute.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use api::identity::{ADMIN_ACCOUNT, subject};
use identity::{ADMIN, DEFAULT_AUDIENCE, IssuerConfig};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::reflector::ObjectRef,
};
use serde_json::{Value, json};
use tokio::time;

use super::{
    conditions::ConditionResult,
    context::{Context, Settings},
    error::{Error, with_timeout},
    fields::MANAGER,
};
use crate::manifests::{Authentication, TRUST_FOLDER, names};

/// How often the keys of the cluster are read. It publishes a new one before it signs with it.
const INTERVAL: Duration = Duration::from_mins(5);
/// The wait after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Where the API server says who it is and with which keys it signs. Both are under the same permission.
const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// Whether the `ConfigMap` exists. Pods that need it do not start before: they would wait for minutes after it is there.
pub(crate) struct Trust(Mutex<Result<(), String>>);

impl Default for Trust {
    fn default() -> Self {
        Self(Mutex::new(Err("it has not been read yet".to_owned())))
    }
}

impl Trust {
    /// Whether pods can mount what they trust.
    pub(crate) fn check(&self, settings: &Settings) -> Result<(), ConditionResult> {
        if settings.inputs.authentication.is_none() {
            return Ok(());
        }
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone().map_err(|problem| {
            ConditionResult::pending("TrustMissing", format!("waiting for the ConfigMap {}: {problem}", names::TRUST))
        })
    }

    fn succeed(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Ok(());
    }

    /// Records a failure. What is published stays valid.
    fn fail(&self, error: &Error) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_err() {
            *state = Err(error.to_string());
        }
    }
}

/// Keeps what is published current for as long as the process runs. Does nothing if services do not look at tokens.
pub(crate) async fn keep_published(context: &Context) {
    let Some(authentication) = &context.settings.inputs.authentication else { return };
    // The port of the issuer is that of its object.
    if context.objects.wait_until_ready().await.is_err() {
        return;
    }
    loop {
        let pause = match publish(context, authentication).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot publish the trusted issuers; retrying"
                );
                context.trust.fail(&error);
                RETRY_DELAY
            }
        };
        time::sleep(pause).await;
    }
}

/// Publishes the issuers once, and creates the key of the issuer if there is none.
pub(crate) async fn publish(context: &Context, authentication: &Authentication) -> Result<(), Error> {
    if authentication.issuer.is_some() {
        context.secrets.ensure_kek().await?;
    }
    let namespace = &context.settings.namespace;
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let existing = with_timeout("read the published issuers", maps.get_opt(names::TRUST)).await?;
    let existing = existing.map(|map| (map.data.unwrap_or_default(), map.metadata.resource_version));
    if existing.as_ref().is_some_and(|(data, _)| data.contains_key(names::ISSUERS_FILE)) {
        context.trust.succeed();
    }
    let data = bundle(context, authentication, &Cluster::read(&context.client).await?);
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match existing {
        Some((current, _)) if current == data => {}
        Some((_, version)) => {
            // If someone changed it meanwhile, that is an error, and the next try reads it.
            let map = config_map(data, version);
            with_timeout("publish the issuers", maps.replace(names::TRUST, &parameters, &map)).await?;
            tracing::info!("published changed issuers or keys");
        }
        None => {
            with_timeout("publish the issuers", maps.create(&parameters, &config_map(data, None))).await?;
            tracing::info!("published the trusted issuers");
        }
    }
    context.trust.succeed();
    Ok(())
}

/// The cluster as an issuer.
struct Cluster {
    issuer: String,
    keys: Value,
}

impl Cluster {
    async fn read(client: &Client) -> Result<Self, Error> {
        let metadata = get(client, DISCOVERY).await?;
        let issuer = metadata["issuer"].as_str().filter(|issuer| !issuer.is_empty());
        let keys = get(client, KEYS).await?;
        let has_keys = keys["keys"].as_array().is_some_and(|keys| !keys.is_empty());
        match issuer {
            Some(issuer) if has_keys => Ok(Self { issuer: issuer.to_owned(), keys }),
            _ => Err(Error::NoKeys),
        }
    }
}

async fn get(client: &Client, path: &str) -> Result<Value, Error> {
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(kube::Error::HttpError);
    with_timeout("read the keys of the cluster", async { client.request(request?).await }).await
}

/// The files: the list of issuers, and the keys of the cluster.
fn bundle(context: &Context, authentication: &Authentication, cluster: &Cluster) -> BTreeMap<String, String> {
    let settings = &context.settings;
    let admin = subject(&settings.namespace, ADMIN_ACCOUNT);
    let own = authentication.issuer.as_ref().map(|issuer| {
        let object = context.objects.get(&ObjectRef::new(&issuer.service).within(&settings.namespace));
        let port = object.map_or(issuer.port, |object| object.spec.ports.http);
        let issuer = crate::manifests::Issuer { port, ..issuer.clone() };
        let keys = issuer.internal_url("/.well-known/jwks.json");
        json!({ "issuer": issuer.url, "jwks_url": keys, "audience": [DEFAULT_AUDIENCE] })
    });
    let of_cluster = json!({
        "issuer": cluster.issuer,
        "jwks_url": format!("file://{TRUST_FOLDER}/{}", names::KEYS_FILE),
        // Each service also accepts the tokens that name itself.
        "audience": [DEFAULT_AUDIENCE],
        "kind": "service",
        "roles": { "claim": "sub", "map": { admin: [ADMIN] } },
    });
    let is_configured = |issuer: &Value| settings.issuers.iter().any(|further| issuer["issuer"] == *further.issuer);
    let ours = own.into_iter().chain([of_cluster]).filter(|issuer| !is_configured(issuer));
    let further = settings.issuers.iter().map(|issuer: &IssuerConfig| json!(issuer));
    [(names::ISSUERS_FILE, ours.chain(further).collect::<Value>()), (names::KEYS_FILE, cluster.keys.clone())]
        .map(|(file, content)| (file.to_owned(), content.to_string()))
        .into()
}

/// It has no owner: pods must be able to start while the operator is away.
fn config_map(data: BTreeMap<String, String>, resource_version: Option<String>) -> ConfigMap {
    let labels = [("app.kubernetes.io/part-of", "hedgerow"), ("app.kubernetes.io/managed-by", "hedgerow-operator")];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(names::TRUST.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            resource_version,
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}
