//! How the pods of a service know who calls them, and prove who they are: the issuers that they trust, a token for each
//! service that they call, and the key of the issuer. Without authentication pods have none of it.
//!
//! Pods that migrate serve and call nobody, so they have none of it either.

use std::collections::BTreeSet;

use api::{
    GATEWAY, Microservice, ServiceType,
    identity::{ALLOW_FROM, TOKEN_DIR, allow_from},
};
use identity::{DEFAULT_AUDIENCE, Mode};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, EnvVar, PodSpec, ProjectedVolumeSource, SecretVolumeSource,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use kube::ResourceExt;

use super::{environment::value, inputs::RenderInputs, names};

/// Where the pods of every service find the issuers that they trust.
pub const TRUST_FOLDER: &str = "/var/run/secrets/hedgerow/trust";
/// Where the pods of a caller find their tokens.
const TOKEN_FOLDER: &str = "/var/run/secrets/hedgerow/tokens";
/// Where the pods of the issuer find the key that seals its keys.
const ISSUER_FOLDER: &str = "/var/run/secrets/hedgerow/issuer";

/// How long a token of a caller is valid. The kubelet renews it after 80% of that.
const TOKEN_LIFETIME_SECONDS: i64 = 6 * 3600;

/// Who may call services, and whose tokens they accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    /// Whether requests need a token.
    pub mode: Mode,
    /// The service that issues the tokens of users; `None` if none does.
    pub issuer: Option<Issuer>,
}

/// The service that issues the tokens of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The name of its `Microservice`.
    pub service: String,
    /// The `iss` of its tokens.
    pub url: String,
    /// Its HTTP port.
    pub port: u16,
}

impl Issuer {
    /// The URL of a path of the issuer inside the cluster.
    #[must_use]
    pub fn internal_url(&self, path: &str) -> String {
        format!("http://{}:{}{path}", self.service, self.port)
    }

    /// Whether this object is the issuer.
    pub(super) fn is(&self, object: &Microservice) -> bool {
        object.name_any() == self.service
    }
}

/// Whether clients from outside the cluster would reach a gateway that needs no token.
pub(crate) fn is_exposed(object: &Microservice, inputs: &RenderInputs) -> bool {
    let is_reachable = object.name_any() == GATEWAY && object.spec.service.kind != ServiceType::ClusterIP;
    is_reachable && !needs_token(object, inputs)
}

/// Whether requests to the pods need a token. `env` of the object has the last word.
fn needs_token(object: &Microservice, inputs: &RenderInputs) -> bool {
    let own = |name: &str| object.spec.env.iter().find(|variable| variable.name == name);
    match (own("AUTH"), &inputs.authentication) {
        (Some(mode), _) => mode.value.as_deref() == Some("required"),
        (None, Some(authentication)) => authentication.mode == Mode::Required,
        // A gateway with issuers of its own needs tokens unless it is told otherwise.
        (None, None) => own("AUTH_ISSUERS").is_some(),
    }
}

/// The variables of the contract, in the order in which a reader looks for them.
pub(super) fn environment(object: &Microservice, inputs: &RenderInputs) -> Vec<EnvVar> {
    let Some(authentication) = &inputs.authentication else { return Vec::new() };
    let mode = match authentication.mode {
        Mode::Open => "open",
        Mode::Required => "required",
    };
    let mut all = vec![
        value("AUTH", mode.to_owned()),
        value("AUTH_ISSUERS", format!("{TRUST_FOLDER}/{}", names::ISSUERS_FILE)),
        value("AUTH_AUDIENCE", object.name_any()),
        value(ALLOW_FROM, callers(object, inputs)),
    ];
    if !object.spec.calls.is_empty() {
        all.push(value(TOKEN_DIR, TOKEN_FOLDER.to_owned()));
    }
    if let Some(issuer) = &authentication.issuer {
        if issuer.is(object) {
            all.push(value("AUTH_ISSUER_URL", issuer.url.clone()));
            all.push(value("AUTH_KEK_FILE", format!("{ISSUER_FOLDER}/{}", names::KEK_FILE)));
        } else if object.name_any() == GATEWAY {
            all.push(value("AUTH_REVOKED_URL", issuer.internal_url("/auth/revoked")));
            all.push(value("AUTH_REVOKED_TOKEN_FILE", format!("{TOKEN_FOLDER}/{}", issuer.service)));
        }
    }
    all
}

/// Mounts into the container what the variables name.
pub(super) fn mount(object: &Microservice, inputs: &RenderInputs, pod: &mut PodSpec) {
    let volumes = volumes(object, inputs);
    let mounts = volumes.iter().map(|(volume, folder)| VolumeMount {
        name: volume.name.clone(),
        mount_path: (*folder).to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    for Container { volume_mounts, .. } in &mut pod.containers {
        volume_mounts.get_or_insert_default().extend(mounts.clone());
    }
    pod.volumes.get_or_insert_default().extend(volumes.into_iter().map(|(volume, _)| volume));
}

/// The volumes, and where each is mounted.
fn volumes(object: &Microservice, inputs: &RenderInputs) -> Vec<(Volume, &'static str)> {
    let Some(authentication) = &inputs.authentication else { return Vec::new() };
    let trust = Volume {
        name: "trust".to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: names::TRUST.to_owned(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let callees = callees(object, authentication);
    let tokens = (!callees.is_empty()).then(|| (tokens(&callees), TOKEN_FOLDER));
    let is_issuer = authentication.issuer.as_ref().is_some_and(|issuer| issuer.is(object));
    let kek = is_issuer.then(|| (kek(), ISSUER_FOLDER));
    [Some((trust, TRUST_FOLDER)), tokens, kek].into_iter().flatten().collect()
}

/// Those to whom the pods prove who they are: whom they call, and of the gateway also the issuer, which tells only
/// services which sessions have ended. A token for every service would let the callee act as the caller elsewhere.
fn callees<'a>(object: &'a Microservice, authentication: &'a Authentication) -> BTreeSet<&'a str> {
    let issuer = authentication.issuer.as_ref().filter(|_| object.name_any() == GATEWAY);
    let calls = object.spec.calls.iter().map(String::as_str).filter(|callee| *callee != DEFAULT_AUDIENCE);
    calls.chain(issuer.map(|issuer| issuer.service.as_str())).collect()
}

/// The kubelet puts a token for each callee into a file of its name, and renews it.
fn tokens(callees: &BTreeSet<&str>) -> Volume {
    let token = |callee: &&str| VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: Some((*callee).to_owned()),
            expiration_seconds: Some(TOKEN_LIFETIME_SECONDS),
            path: (*callee).to_owned(),
        }),
        ..VolumeProjection::default()
    };
    let sources = Some(callees.iter().map(token).collect());
    Volume {
        name: "tokens".to_owned(),
        projected: Some(ProjectedVolumeSource { sources, ..ProjectedVolumeSource::default() }),
        ..Volume::default()
    }
}

fn kek() -> Volume {
    let name = Some(names::KEK_SECRET.to_owned());
    Volume {
        name: "issuer".to_owned(),
        secret: Some(SecretVolumeSource { secret_name: name, ..SecretVolumeSource::default() }),
        ..Volume::default()
    }
}

/// The subjects that the network policy admits too. All services may read the keys of the issuer, for which they need no
/// token; of those that do not call it, only the gateway sends it one.
fn callers(object: &Microservice, inputs: &RenderInputs) -> String {
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let issuer = inputs.authentication.as_ref().and_then(|authentication| authentication.issuer.as_ref());
    let gateway = issuer.filter(|issuer| issuer.is(object)).map(|_| GATEWAY);
    allow_from(&namespace, &object.spec, inputs.callers.iter().map(String::as_str).chain(gateway))
}
