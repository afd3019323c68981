//! What the pods that serve and the pods that migrate have in common. They meet the `restricted` Pod Security Standard.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, EnvVar, KeyToPath, LocalObjectReference, PodSecurityContext,
        PodSpec, SeccompProfile, SecretVolumeSource, SecurityContext, ServiceAccount, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;

use super::{
    inputs::RenderInputs,
    labels::{SERVICE, metadata},
    names, resources,
};
use api::Microservice;

/// Where the CA certificate of the database server is mounted. The `url` in the Secret refers to it.
pub const CA_PATH: &str = "/etc/hedgerow/database/ca.crt";

/// The user and group of containers, whatever their image says: the kubelet refuses an image without a numeric user
/// because it could run as root.
const USER: i64 = 65532;

/// The identity of the pods.
pub(super) fn service_account(object: &Microservice) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(object, object.name_any(), SERVICE),
        automount_service_account_token: Some(object.spec.automount_token),
        ..ServiceAccount::default()
    }
}

/// What all pods share.
pub(super) fn spec(object: &Microservice, inputs: &RenderInputs, container: Container) -> PodSpec {
    PodSpec {
        service_account_name: Some(object.name_any()),
        automount_service_account_token: Some(false),
        // Environment variables for the other Services of the namespace could clash with the service's own.
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        volumes: Some([Some(temporary()), authority(object, inputs)].into_iter().flatten().collect()),
        containers: vec![container],
        image_pull_secrets: (!inputs.image_pull_secrets.is_empty()).then(|| {
            let named = |name: &String| LocalObjectReference { name: name.clone() };
            inputs.image_pull_secrets.iter().map(named).collect()
        }),
        ..PodSpec::default()
    }
}

/// What all containers share.
pub(super) fn container(object: &Microservice, inputs: &RenderInputs, environment: Vec<EnvVar>) -> Container {
    let mount = |volume: Volume, path: &str, read_only: bool| VolumeMount {
        name: volume.name,
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let authority = authority(object, inputs).map(|volume| mount(volume, CA_PATH.trim_end_matches("/ca.crt"), true));
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(object.spec.image.clone()),
        // Tags are not moved, so pods can start from a node's cache while the registry is unavailable.
        image_pull_policy: Some("IfNotPresent".to_owned()),
        env: Some(environment),
        resources: Some(resources::with_defaults(object.spec.resources.as_ref())),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        // A container that writes no termination message reports the end of its log.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some([Some(mount(temporary(), "/tmp", false)), authority].into_iter().flatten().collect()),
        ..Container::default()
    }
}

/// Most language runtimes need a place for temporary files, and the root file system is read-only.
fn temporary() -> Volume {
    Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity("64Mi".to_owned())), medium: None }),
        ..Volume::default()
    }
}

fn authority(object: &Microservice, inputs: &RenderInputs) -> Option<Volume> {
    let item = KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None };
    inputs.database_ca.then(|| Volume {
        name: "database-ca".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::database_secret(object)),
            items: Some(vec![item]),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    })
}
