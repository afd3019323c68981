//! What depends on facts that `operator render` does not know.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;

fn object(spec: &Value) -> Microservice {
    let mut object = Microservice::new("orders", serde_json::from_value(spec.clone()).expect("a spec"));
    object.metadata.namespace = Some("shop".to_owned());
    object
}

fn pod_annotation(children: &Children, name: &str) -> Option<String> {
    let template = &children.deployment.spec.as_ref()?.template;
    template.metadata.as_ref()?.annotations.as_ref()?.get(name).cloned()
}

fn with_database() -> Value {
    json!({ "image": "orders:1.0", "database": {}, "env": [{ "name": "A", "value": "1" }] })
}

#[test]
fn a_stored_object_owns_its_children() {
    let mut object = object(&with_database());
    assert_eq!(render(&object, &Facts::default()).deployment.owner_references(), []);
    object.metadata.uid = Some("1f0".to_owned());
    let children = render(&object, &Facts { pod_monitor: Some(BTreeMap::new()), ..Facts::default() });
    let owners = [
        children.deployment.owner_references(),
        children.services[1].owner_references(),
        children.migration.as_ref().expect("a Job").owner_references(),
        children.pod_monitor.as_ref().expect("a PodMonitor").owner_references(),
    ];
    for owners in owners {
        let [owner] = owners else { panic!("{owners:?}") };
        assert_eq!((owner.uid.as_str(), owner.controller, owner.block_owner_deletion), ("1f0", Some(true), Some(true)));
    }
}

#[test]
fn new_credentials_replace_the_pods_but_do_not_migrate_again() {
    let object = object(&with_database());
    let facts = |credentials: &str| Facts { credentials: Some(credentials.to_owned()), ..Facts::default() };
    let (before, after) = (render(&object, &facts("a")), render(&object, &facts("b")));
    assert_ne!(before.deployment, after.deployment);
    assert_eq!(before.migration, after.migration);
}

#[test]
fn image_and_environment_make_another_migration_and_nothing_else_does() {
    let job = |change: &dyn Fn(&mut Value)| {
        let mut spec = with_database();
        change(&mut spec);
        let children = render(&object(&spec), &Facts::default());
        let name = children.migration.as_ref().expect("a Job").name_any();
        let hash = pod_annotation(&children, MIGRATION).expect("the hash");
        assert_eq!(name, format!("orders-migrate-{hash}"));
        name
    };
    let same = job(&|_| {});
    assert_ne!(same, job(&|spec| spec["image"] = json!("orders:1.1")));
    assert_ne!(same, job(&|spec| spec["env"][0]["value"] = json!("2")));
    assert_eq!(same, job(&|spec| spec["database"]["poolSize"] = json!(4)));
    assert_eq!(same, job(&|spec| spec["scaling"]["max"] = json!(3)));
    assert_eq!(same, job(&|spec| spec["resources"]["limits"]["memory"] = json!("1Gi")));
}

#[test]
fn the_gateway_sees_the_accepted_paths_only() {
    let object = object(&json!({ "image": "orders:1.0", "route": { "paths": ["/orders", "/baskets"] } }));
    let route = |accepted: &[&str]| {
        let accepted_paths = accepted.iter().map(ToString::to_string).collect();
        let [service, headless] = render(&object, &Facts { accepted_paths, ..Facts::default() }).services;
        assert!(headless.annotations().is_empty());
        service.annotations().get("hedgerow.dev/route").cloned()
    };
    assert_eq!(route(&["/orders"]).as_deref(), Some(r#"{"grpc":false,"paths":["/orders"]}"#));
    assert_eq!(route(&[]), None);
}

#[test]
fn both_kinds_of_pods_have_the_authority_of_the_database() {
    let children = render(&object(&with_database()), &Facts { database_ca: true, ..Facts::default() });
    let pods = [
        children.deployment.spec.expect("a spec").template.spec.expect("a pod"),
        children.migration.expect("a Job").spec.expect("a spec").template.spec.expect("a pod"),
    ];
    for pod in pods {
        let mounts = pod.containers[0].volume_mounts.as_deref().unwrap_or_default();
        assert!(mounts.iter().any(|mount| mount.mount_path == "/etc/hedgerow/database"), "{mounts:?}");
    }
}

#[test]
fn what_holds_for_the_installation_shows_in_each_service() {
    let facts = Facts {
        pod_monitor: Some([("release".to_owned(), "prometheus".to_owned())].into()),
        open_network: true,
        image_pull_secrets: vec!["registry".to_owned()],
        ..Facts::default()
    };
    let children = render(&object(&with_database()), &facts);
    assert_eq!(children.network_policies, []);
    assert_eq!(children.pod_monitor.expect("a PodMonitor").labels()["release"], "prometheus");
    let pods = [
        children.deployment.spec.expect("a spec").template.spec.expect("a pod"),
        children.migration.expect("a Job").spec.expect("a spec").template.spec.expect("a pod"),
    ];
    for pod in pods {
        assert_eq!(pod.image_pull_secrets.expect("Secrets")[0].name, "registry");
    }
}

#[test]
fn the_longest_name_leaves_room_for_all_children() {
    let name = "o".repeat(40);
    let mut object = object(&with_database());
    object.metadata.name = Some(name);
    let children = render(&object, &Facts::default());
    // A Service's name, and a Job's, which becomes a label of its pods.
    assert!(children.services[1].name_any().len() <= 63);
    assert!(children.migration.expect("a Job").name_any().len() <= 63);
}
