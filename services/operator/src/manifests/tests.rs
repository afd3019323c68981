//! What depends on inputs that `operator render` does not have.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;

fn object(spec: &Value) -> Microservice {
    let mut object = Microservice::new("orders", serde_json::from_value(spec.clone()).expect("a spec"));
    object.metadata.namespace = Some("shop".to_owned());
    object
}

fn pod_annotation(manifests: &Manifests, name: &str) -> Option<String> {
    let template = &manifests.deployment.spec.as_ref()?.template;
    template.metadata.as_ref()?.annotations.as_ref()?.get(name).cloned()
}

fn with_database() -> Value {
    json!({ "image": "orders:1.0", "database": {}, "env": [{ "name": "A", "value": "1" }] })
}

#[test]
fn a_stored_object_owns_its_children() {
    let mut object = object(&with_database());
    assert_eq!(render(&object, &RenderInputs::default()).deployment.owner_references(), []);
    object.metadata.uid = Some("1f0".to_owned());
    let manifests = render(&object, &RenderInputs { pod_monitor: Some(BTreeMap::new()), ..RenderInputs::default() });
    let owners = [
        manifests.deployment.owner_references(),
        manifests.services[1].owner_references(),
        manifests.migration.as_ref().expect("a Job").owner_references(),
        manifests.pod_monitor.as_ref().expect("a PodMonitor").owner_references(),
    ];
    for owners in owners {
        let [owner] = owners else { panic!("{owners:?}") };
        assert_eq!((owner.uid.as_str(), owner.controller, owner.block_owner_deletion), ("1f0", Some(true), Some(true)));
    }
}

#[test]
fn new_credentials_replace_pods_without_a_migration() {
    let object = object(&with_database());
    let inputs = |digest: &str| RenderInputs { credentials_digest: Some(digest.to_owned()), ..RenderInputs::default() };
    let (before, after) = (render(&object, &inputs("a")), render(&object, &inputs("b")));
    assert_ne!(before.deployment, after.deployment);
    assert_eq!(before.migration, after.migration);
}

#[test]
fn only_image_and_environment_change_the_migration() {
    let job = |change: &dyn Fn(&mut Value)| {
        let mut spec = with_database();
        change(&mut spec);
        let manifests = render(&object(&spec), &RenderInputs::default());
        let name = manifests.migration.as_ref().expect("a Job").name_any();
        let hash = pod_annotation(&manifests, "hedgerow.dev/migration").expect("the hash");
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
fn gateway_sees_only_accepted_paths() {
    let plain = object(&json!({ "image": "orders:1.0", "route": { "paths": ["/orders", "/baskets"] } }));
    let route = |object: &Microservice, accepted: &[&str]| {
        let accepted_paths = accepted.iter().map(ToString::to_string).collect();
        let [service, headless] = render(object, &RenderInputs { accepted_paths, ..RenderInputs::default() }).services;
        assert!(headless.annotations().is_empty());
        service.annotations().get("hedgerow.dev/route").cloned()
    };
    assert_eq!(route(&plain, &["/orders"]).as_deref(), Some(r#"{"grpc":false,"paths":["/orders"]}"#));
    assert_eq!(route(&plain, &[]), None);
    let keyed = json!({ "image": "orders:1.0", "route": { "paths": ["/orders"], "idempotencyKeys": ["/orders"] } });
    let expected = r#"{"grpc":false,"idempotencyKeys":["/orders"],"paths":["/orders"]}"#;
    assert_eq!(route(&object(&keyed), &["/orders"]).as_deref(), Some(expected));
}

fn named(name: &str, spec: &Value) -> Microservice {
    let mut object = object(spec);
    object.metadata.name = Some(name.to_owned());
    object
}

fn variable(manifests: &Manifests, name: &str) -> Option<String> {
    let pod = manifests.deployment.spec.as_ref()?.template.spec.as_ref()?;
    pod.containers[0].env.iter().flatten().find(|variable| variable.name == name)?.value.clone()
}

#[test]
fn a_caller_gets_the_url_of_its_callee_with_the_callees_port() {
    let users = named("users", &json!({ "image": "users:1.0", "calls": ["order-history"] }));
    let url = |all: &[Microservice]| {
        let inputs = RenderInputs::default().with_siblings(&users, all);
        variable(&render(&users, &inputs), "ORDER_HISTORY_GRPC_URL").expect("a URL")
    };
    assert_eq!(url(&[]), "http://order-history-headless:50051", "the default until the callee exists");
    let callee = |ports: Value| named("order-history", &json!({ "image": "history:1.0", "ports": ports }));
    assert_eq!(url(&[callee(json!({ "grpc": 6000 }))]), "http://order-history-headless:6000");
    assert_eq!(url(&[callee(json!({}))]), "http://order-history-headless:50051");
}

#[test]
fn a_callee_changes_neither_the_migration_nor_its_own_pods() {
    let with = |calls: Value| {
        let mut spec = with_database();
        spec["calls"] = calls;
        render(&object(&spec), &RenderInputs::default())
    };
    assert_eq!(with(json!([])).migration, with(json!(["inventory"])).migration);
    let with_caller = RenderInputs { callers: ["users".to_owned()].into(), ..RenderInputs::default() };
    let orders = object(&with_database());
    assert_eq!(render(&orders, &RenderInputs::default()).deployment, render(&orders, &with_caller).deployment);
}

#[test]
fn a_policy_admits_callers_once_beside_the_peers_of_the_spec() {
    let all = ["wishlists", "users", "baskets"].map(|name| {
        named(
            name,
            &json!({ "image": "x:1.0", "calls": if name == "baskets" { json!([]) } else { json!(["orders"]) } }),
        )
    });
    let admitted = |allow_from: Value| {
        let orders = object(&json!({ "image": "orders:1.0", "network": { "allowFrom": allow_from } }));
        let inputs = RenderInputs::default().with_siblings(&orders, &all);
        let policy = render(&orders, &inputs).network_policies.remove(0);
        let rule = policy.spec.expect("a spec").ingress.expect("rules").remove(0);
        let names = rule.from?.into_iter().map(|peer| {
            let labels = peer.pod_selector.expect("a selector").match_labels.expect("labels");
            labels["app.kubernetes.io/name"].clone()
        });
        Some(names.collect::<Vec<_>>())
    };
    assert_eq!(admitted(json!([])), Some(vec!["users".to_owned(), "wishlists".to_owned()]));
    assert_eq!(admitted(json!(["wishlists"])), Some(vec!["wishlists".to_owned(), "users".to_owned()]));
    assert_eq!(admitted(json!(["any"])), None, "everything is admitted");
}

#[test]
fn serving_and_migrating_pods_mount_the_database_ca() {
    let manifests = render(&object(&with_database()), &RenderInputs { database_ca: true, ..RenderInputs::default() });
    let pods = [
        manifests.deployment.spec.expect("a spec").template.spec.expect("a pod"),
        manifests.migration.expect("a Job").spec.expect("a spec").template.spec.expect("a pod"),
    ];
    for pod in pods {
        let mounts = pod.containers[0].volume_mounts.as_deref().unwrap_or_default();
        assert!(mounts.iter().any(|mount| mount.mount_path == "/etc/hedgerow/database"), "{mounts:?}");
    }
}

#[test]
fn settings_of_the_installation_apply_to_each_service() {
    let inputs = RenderInputs {
        pod_monitor: Some([("release".to_owned(), "prometheus".to_owned())].into()),
        open_network: true,
        image_pull_secrets: vec!["registry".to_owned()],
        ..RenderInputs::default()
    };
    let manifests = render(&object(&with_database()), &inputs);
    assert_eq!(manifests.network_policies, []);
    assert_eq!(manifests.pod_monitor.expect("a PodMonitor").labels()["release"], "prometheus");
    let pods = [
        manifests.deployment.spec.expect("a spec").template.spec.expect("a pod"),
        manifests.migration.expect("a Job").spec.expect("a spec").template.spec.expect("a pod"),
    ];
    for pod in pods {
        assert_eq!(pod.image_pull_secrets.expect("Secrets")[0].name, "registry");
    }
}

#[test]
fn wherever_several_pods_may_run_one_at_a_time_may_be_evicted() {
    let budget = |min: i32, max: i32| {
        let spec = json!({ "image": "orders:1.0", "scaling": { "min": min, "max": max } });
        let budget = render(&object(&spec), &RenderInputs::default()).disruption_budget?.spec?;
        assert_eq!(budget.unhealthy_pod_eviction_policy.as_deref(), Some("AlwaysAllow"));
        // Unlike `minAvailable: 1`, it lets the only pod be evicted.
        Some((budget.max_unavailable?, budget.min_available))
    };
    let one = Some((IntOrString::Int(1), None));
    assert_eq!([budget(1, 10), budget(2, 2), budget(1, 1)], [one.clone(), one, None]);
}

#[test]
fn the_longest_name_leaves_room_for_all_children() {
    let name = "o".repeat(40);
    let mut object = object(&with_database());
    object.metadata.name = Some(name);
    let manifests = render(&object, &RenderInputs::default());
    // The names of a Service and of a Job, which becomes a label of its pods, are limited to 63 characters.
    assert!(manifests.services[1].name_any().len() <= 63);
    assert!(manifests.migration.expect("a Job").name_any().len() <= 63);
}
