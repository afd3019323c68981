//! The first steps of a user.

use std::{collections::BTreeMap, fs, sync::Arc};

use serde_json::{Value, json};

use crate::{
    command::{Running, root, run},
    release::Release,
};

/// Follows the notes as a user would: the requests succeed through the forwarded port.
pub async fn the_notes_lead_to_a_first_response(on: Arc<Release>) {
    let client = reqwest::Client::new();
    let forward = format!("kubectl port-forward --namespace {} service/gateway 8080:8080", on.name);
    assert!(on.notes.contains(&forward), "the notes lack `{forward}`:\n{}", on.notes);
    let (_forward, url) = Running::forward(&on.name, "gateway").await;
    for service in ["users", "inventory"] {
        let request = on.notes.lines().find(|line| line.contains("curl") && line.contains(&format!("/{service}")));
        let request = request.unwrap_or_else(|| panic!("the notes lack a request for {service}:\n{}", on.notes));
        let path =
            request.split("http://127.0.0.1:8080").nth(1).and_then(|rest| rest.split_once('/')).expect("a path").1;
        let path = path.split(' ').next().expect("a path");
        let body = request.split('\'').nth_back(1).expect("a body").to_owned();
        let request = client.post(format!("{url}/{path}")).header("content-type", "application/json").body(body);
        let response = request.send().await.expect("a response");
        assert_eq!(response.status(), 201, "{path}");
        let response = client.get(format!("{url}/{path}")).send().await.expect("a response");
        let body: Value = response.json().await.expect("JSON");
        println!("GET /{path}: {body}");
        assert!(body.to_string().contains(if service == "users" { "ada@example.com" } else { r#""stock":42"# }));
    }
    // For Helm 3, whose --wait ignores the kind.
    let wait = format!("kubectl wait --namespace {} msvc --all --for=condition=Ready", on.name);
    assert!(on.notes.contains(&wait), "{}", on.notes);
    on.kubectl(&["wait", "msvc", "--all", "--for=condition=Ready", "--timeout=30s"])
        .await
        .expect("all objects are ready");
}

pub async fn helm_test_passes(on: Arc<Release>) {
    let result = run("helm", &["test", "hedgerow", "--namespace", &on.name, "--timeout", "1m"]).await;
    assert!(result.as_ref().is_ok_and(|output| output.contains("Succeeded")), "{result:?}");
}

/// The chart creates the same Roles as the operator's own manifests.
pub async fn the_roles_equal_those_of_the_manifests(on: Arc<Release>) {
    let text = fs::read_to_string(root().join("deploy/operator/operator.yaml")).expect("the manifests");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let roles: Vec<_> = documents.into_iter().filter(|document| document["kind"] == "Role").collect();
    assert_eq!(roles.len(), 2);
    for role in roles {
        let name = role["metadata"]["name"].as_str().expect("a name");
        let actual = on.kubectl(&["get", "role", name, "--output", "json"]).await.expect("a Role");
        let actual: Value = serde_json::from_str(&actual).expect("JSON");
        assert_eq!(actual["rules"], role["rules"], "{name}");
    }
}

/// The API server accepts the rendered chart with strict validation, and rendering twice gives the same bytes.
pub async fn rendered_objects_pass_strict_validation(on: Arc<Release>) {
    let every = json!({
        "auth": {
            "mode": "required",
            "issuers": [{ "issuer": "https://login.example", "roles": { "claim": "groups", "map": { "ops": "admin" } } }],
        },
        "ingress": { "enabled": true, "className": "any", "host": "shop.example", "tlsSecret": "tls" },
        "image": { "pullSecrets": ["registry"] },
        "networkPolicy": { "scrapeNamespaces": ["monitoring"] },
        "services": { "orders": { "image": "localhost/orders:1", "database": {}, "env": [{ "name": "A", "value": "b" }] } },
    });
    let folder = tempfile::tempdir().expect("a folder");
    for (file, values) in [("default", json!({})), ("every", every)] {
        let (values_file, rendered) = (folder.path().join("values.json"), folder.path().join(file));
        fs::write(&values_file, values.to_string()).expect("the file is written");
        let values_file = values_file.to_string_lossy();
        let template = ["template", "hedgerow", "helm/hedgerow", "--namespace", &on.name, "--values", &values_file];
        let [once, twice] = [run("helm", &template).await, run("helm", &template).await];
        let once = once.expect("the chart renders");
        assert_eq!(Ok(&once), twice.as_ref(), "rendering is deterministic");
        fs::write(&rendered, once).expect("the file is written");
        let rendered = rendered.to_string_lossy();
        let command = ["apply", "--dry-run=server", "--validate=strict", "--server-side", "--force-conflicts", "-f"];
        let output = on.kubectl(&[&command[..], &[&*rendered]].concat()).await.expect("the API server accepts it");
        let kinds = output.lines().filter_map(|line| line.split(['.', '/']).next()).fold(
            BTreeMap::<_, u32>::new(),
            |mut kinds, kind| {
                *kinds.entry(kind).or_default() += 1;
                kinds
            },
        );
        println!("{file}: {kinds:?}");
        assert!(kinds.contains_key("microservice") && kinds.contains_key("statefulset"), "{output}");
    }
}
