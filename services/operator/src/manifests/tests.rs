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

/// The inputs of services that verify tokens, whose issuer is `users`.
fn secured() -> RenderInputs {
    let issuer = Issuer { service: "users".to_owned(), url: "https://shop.example".to_owned(), port: 8080 };
    let authentication = Authentication { mode: identity::Mode::Required, issuer: Some(issuer) };
    RenderInputs { authentication: Some(authentication), ..RenderInputs::default() }
}

#[test]
fn callers_are_those_that_the_policy_admits() {
    let callers = |spec: Value, callers: &[&str]| {
        let callers = callers.iter().map(ToString::to_string).collect();
        variable(&render(&object(&spec), &RenderInputs { callers, ..secured() }), "AUTH_ALLOW_FROM")
            .expect("a variable")
    };
    let spec = |allow_from: Value| json!({ "image": "orders:1.0", "network": { "allowFrom": allow_from } });
    assert_eq!(callers(spec(json!([])), &[]), "", "nobody");
    let both = "system:serviceaccount:shop:reports,system:serviceaccount:shop:users";
    assert_eq!(callers(spec(json!(["reports", { "team": "stock" }])), &["users"]), both);
    assert_eq!(callers(spec(json!(["users", "reports"])), &["users"]), both);
    assert_eq!(callers(spec(json!(["any", "users"])), &["users"]), "any");
    let routed = json!({ "image": "orders:1.0", "route": { "paths": ["/orders"] } });
    assert_eq!(callers(routed, &[]), "system:serviceaccount:shop:gateway");
    // The gateway asks the issuer which sessions have ended, whether or not the issuer has a route.
    let issuer = render(&named("users", &json!({ "image": "users:1.0" })), &secured());
    assert_eq!(variable(&issuer, "AUTH_ALLOW_FROM").expect("a variable"), "system:serviceaccount:shop:gateway");
}

#[test]
fn a_caller_gets_a_token_for_each_callee() {
    let tokens = |name: &str, calls: Value, inputs: RenderInputs| {
        let object = named(name, &json!({ "image": "x:1.0", "calls": calls }));
        let pod = render(&object, &inputs).deployment.spec.expect("a spec").template.spec.expect("a pod");
        let volumes = pod.volumes.expect("volumes").into_iter();
        let tokens =
            volumes.filter_map(|volume| volume.projected).flat_map(|projected| projected.sources.expect("sources"));
        let tokens = tokens.map(|source| source.service_account_token.expect("a token"));
        tokens
            .map(|token| (token.audience.expect("an audience"), token.path, token.expiration_seconds))
            .collect::<Vec<_>>()
    };
    let token = |name: &str| (name.to_owned(), name.to_owned(), Some(21600));
    assert_eq!(tokens("orders", json!(["inventory", "users"]), secured()), [token("inventory"), token("users")]);
    assert_eq!(tokens("orders", json!([]), secured()), []);
    assert_eq!(tokens("orders", json!(["hedgerow"]), secured()), [], "every service would accept it");
    // The gateway asks the issuer which sessions have ended.
    assert_eq!(tokens("gateway", json!([]), secured()), [token("users")]);
    assert_eq!(tokens("gateway", json!(["users"]), secured()), [token("users")]);
    let without_issuer = Authentication { mode: identity::Mode::Required, issuer: None };
    let inputs = RenderInputs { authentication: Some(without_issuer), ..RenderInputs::default() };
    assert_eq!(tokens("gateway", json!([]), inputs), []);
}

#[test]
fn only_the_issuer_has_the_key_and_admits_all_services() {
    let mut secrets = Vec::new();
    for name in ["users", "inventory", "gateway"] {
        let manifests = render(&named(name, &json!({ "image": "x:1.0", "calls": ["payment"] })), &secured());
        let pod = manifests.deployment.spec.clone().expect("a spec").template.spec.expect("a pod");
        let volumes = pod.volumes.expect("volumes");
        assert!(volumes.iter().any(|volume| volume.config_map.is_some()), "{name} has the issuers");
        secrets.extend(volumes.into_iter().filter_map(|volume| Some((name, volume.secret?.secret_name?))));
        assert_eq!(variable(&manifests, "AUTH_KEK_FILE").is_some(), name == "users");
        let rules = json!(manifests.network_policies[0].spec.as_ref().expect("a spec").ingress);
        let admits_all = rules.to_string().contains(r#""app.kubernetes.io/managed-by":"hedgerow-operator""#);
        assert_eq!(admits_all, name == "users", "{rules}");
    }
    assert_eq!(secrets, [("users", "hedgerow-issuer".to_owned())]);
}

#[test]
fn the_gateway_finds_the_issuer_at_its_port() {
    let gateway = named("gateway", &json!({ "image": "gateway:1.0" }));
    let users = named("users", &json!({ "image": "users:1.0", "ports": { "http": 8081 } }));
    let rendered = |all: &[Microservice]| render(&gateway, &secured().with_siblings(&gateway, all));
    let url = |all: &[Microservice]| variable(&rendered(all), "AUTH_REVOKED_URL").expect("a URL");
    assert_eq!(url(&[]), "http://users:8080/auth/revoked");
    assert_eq!(url(&[users]), "http://users:8081/auth/revoked");
    let file = variable(&rendered(&[]), "AUTH_REVOKED_TOKEN_FILE").expect("a path");
    let pod = rendered(&[]).deployment.spec.expect("a spec").template.spec.expect("a pod");
    let mounts = pod.containers[0].volume_mounts.as_deref().unwrap_or_default();
    assert!(mounts.iter().any(|mount| file == format!("{}/users", mount.mount_path)), "{file} in {mounts:?}");
}

#[test]
fn an_open_gateway_is_not_reachable_from_outside() {
    let kind = |name: &str, env: Value, inputs: &RenderInputs| {
        let object = named(name, &json!({ "image": "x:1.0", "service": { "type": "NodePort" }, "env": env }));
        let [service, _] = render(&object, inputs).services;
        service.spec.expect("a spec").type_.expect("a type")
    };
    let env = |name: &str, value: &str| json!([{ "name": name, "value": value }]);
    let open = RenderInputs {
        authentication: Some(Authentication { mode: identity::Mode::Open, issuer: None }),
        ..RenderInputs::default()
    };
    let (none, unset, required) = (json!([]), RenderInputs::default(), secured());
    for inputs in [&open, &unset] {
        assert_eq!(kind("gateway", none.clone(), inputs), "ClusterIP");
        assert_eq!(kind("gateway", env("AUTH", "required"), inputs), "NodePort");
        assert_eq!(kind("orders", none.clone(), inputs), "NodePort", "it may have its own ways");
    }
    assert_eq!(kind("gateway", none, &required), "NodePort");
    assert_eq!(kind("gateway", env("AUTH", "open"), &required), "ClusterIP");
    assert_eq!(kind("gateway", env("AUTH_ISSUERS", "[]"), &unset), "NodePort");
    assert_eq!(kind("gateway", env("AUTH_ISSUERS", "[]"), &open), "ClusterIP");
}

#[test]
fn an_object_may_override_how_it_verifies_tokens() {
    let spec = json!({ "image": "orders:1.0", "env": [{ "name": "AUTH", "value": "open" }] });
    let pod = render(&object(&spec), &secured()).deployment.spec.expect("a spec").template.spec.expect("a pod");
    let variables = pod.containers[0].env.iter().flatten().filter(|variable| variable.name == "AUTH");
    assert_eq!(variables.map(|variable| variable.value.clone()).collect::<Vec<_>>(), [Some("open".to_owned())]);
}
