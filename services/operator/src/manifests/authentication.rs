//! How the pods of a service know who calls them, and prove who they are: the issuers that they trust, a token for each
//! service that they call, and the key of the issuer. Without authentication pods have none of it.
//!
//! Pods that migrate serve and call nobody, so they have none of it either.

use std::collections::BTreeSet;

use api::{
    GATEWAY, Microservice, Peer,
    identity::{ALLOW_FROM, ANY, TOKEN_DIR, subject},
};
use identity::Mode;
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
    let calls = &object.spec.calls;
    let tokens = (!calls.is_empty()).then(|| (tokens(calls), TOKEN_FOLDER));
    let is_issuer = authentication.issuer.as_ref().is_some_and(|issuer| issuer.is(object));
    let kek = is_issuer.then(|| (kek(), ISSUER_FOLDER));
    [Some((trust, TRUST_FOLDER)), tokens, kek].into_iter().flatten().collect()
}

/// The kubelet puts a token for each callee into a file of its name, and renews it.
fn tokens(callees: &[String]) -> Volume {
    let token = |callee: &String| VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: Some(callee.clone()),
            expiration_seconds: Some(TOKEN_LIFETIME_SECONDS),
            path: callee.clone(),
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

/// The subjects that the network policy admits too. Peers that are labels are admitted by the network only, because they
/// say nothing about a `ServiceAccount`.
fn callers(object: &Microservice, inputs: &RenderInputs) -> String {
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let named = object.spec.network.allow_from.iter().filter_map(|peer| match peer {
        Peer::Name(name) => Some(name.as_str()),
        Peer::Labels(_) => None,
    });
    let gateway = object.spec.route.as_ref().map(|_| GATEWAY);
    let all: BTreeSet<&str> = named.chain(inputs.callers.iter().map(String::as_str)).chain(gateway).collect();
    if all.contains(ANY) {
        return ANY.to_owned();
    }
    all.into_iter().map(|name| subject(&namespace, name)).collect::<Vec<_>>().join(",")
}
