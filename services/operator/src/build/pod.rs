//! What the pods that serve and those that migrate have in common. They keep the `restricted` Pod Security Standard.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EmptyDirVolumeSource, EnvVar, KeyToPath, LocalObjectReference, PodSecurityContext,
        PodSpec, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;

use super::{Facts, names, resources};
use api::Microservice;

/// Where the certificate is that the database server's is signed with; the Secret's `url` names it.
pub const CA_PATH: &str = "/etc/hedgerow/database/ca.crt";

/// The user and group that containers run as, whatever their image says: one that says a name, or nothing, would be
/// refused for not being known to be another than root.
const USER: i64 = 65532;

/// The pod, but for what depends on what it does.
pub(super) fn spec(object: &Microservice, facts: &Facts, container: Container) -> PodSpec {
    PodSpec {
        service_account_name: Some(object.name_any()),
        automount_service_account_token: Some(false),
        // A variable for each Service of the namespace would change with the others.
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        volumes: Some([Some(temporary()), authority(object, facts)].into_iter().flatten().collect()),
        containers: vec![container],
        image_pull_secrets: (!facts.image_pull_secrets.is_empty()).then(|| {
            let named = |name: &String| LocalObjectReference { name: name.clone() };
            facts.image_pull_secrets.iter().map(named).collect()
        }),
        ..PodSpec::default()
    }
}

/// The container, but for what depends on what it does.
pub(super) fn container(object: &Microservice, facts: &Facts, environment: Vec<EnvVar>) -> Container {
    let mount = |volume: Volume, path: &str, read_only: bool| VolumeMount {
        name: volume.name,
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let authority = authority(object, facts).map(|volume| mount(volume, CA_PATH.trim_end_matches("/ca.crt"), true));
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(object.spec.image.clone()),
        // A tag that is not moved need not be looked up each time a pod starts, by which a registry that is away would
        // keep pods away as well.
        image_pull_policy: Some("IfNotPresent".to_owned()),
        env: Some(environment),
        resources: Some(resources::complete(object.spec.resources.as_ref())),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        // The last words of a container that says none: the end of its log.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some([Some(mount(temporary(), "/tmp", false)), authority].into_iter().flatten().collect()),
        ..Container::default()
    }
}

/// Most languages' run times want a place for temporary files, which a read-only root does not give.
fn temporary() -> Volume {
    Volume {
        name: "tmp".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity("64Mi".to_owned())), medium: None }),
        ..Volume::default()
    }
}

fn authority(object: &Microservice, facts: &Facts) -> Option<Volume> {
    let item = KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None };
    facts.database_ca.then(|| Volume {
        name: "database-ca".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(names::credentials(object)),
            items: Some(vec![item]),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    })
}
