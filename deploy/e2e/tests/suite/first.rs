//! What a user sees first.

use std::{collections::BTreeMap, fs, sync::Arc};

use serde_json::{Value, json};

use crate::{
    command::{Running, root, run},
    release::Release,
};

/// The lines of the notes that a user types, carried out: what is forwarded answers what is asked.
pub async fn the_notes_lead_to_a_first_request(on: Arc<Release>) {
    let client = reqwest::Client::new();
    let forward = format!("kubectl port-forward --namespace {} service/gateway 8080:8080", on.name);
    assert!(on.notes.contains(&forward), "the notes say `{forward}`:\n{}", on.notes);
    let (_forward, url) = Running::forward(&on.name, "gateway").await;
    for service in ["users", "inventory"] {
        let request = on.notes.lines().find(|line| line.contains("curl") && line.contains(&format!("/{service}")));
        let request = request.unwrap_or_else(|| panic!("the notes have a request for {service}:\n{}", on.notes));
        let path =
            request.split("http://127.0.0.1:8080").nth(1).and_then(|rest| rest.split_once('/')).expect("a path").1;
        let path = path.split(' ').next().expect("a path");
        let body = request.split('\'').nth_back(1).expect("a body").to_owned();
        let request = client.post(format!("{url}/{path}")).header("content-type", "application/json").body(body);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 201, "{path}");
        let answer: Value =
            client.get(format!("{url}/{path}")).send().await.expect("an answer").json().await.expect("it");
        println!("GET /{path}: {answer}");
        assert!(answer.to_string().contains(if service == "users" { "ada@example.com" } else { r#""stock":42"# }));
    }
    // For Helm 3, whose --wait does not know the kind.
    let wait = format!("kubectl wait --namespace {} msvc --all --for=condition=Ready", on.name);
    assert!(on.notes.contains(&wait), "{}", on.notes);
    on.kubectl(&["wait", "msvc", "--all", "--for=condition=Ready", "--timeout=30s"]).await.expect("they are ready");
}

pub async fn helm_test_passes(on: Arc<Release>) {
    let said = run("helm", &["test", "hedgerow", "--namespace", &on.name, "--timeout", "1m"]).await;
    assert!(said.as_ref().is_ok_and(|said| said.contains("Succeeded")), "{said:?}");
}

/// The chart's Roles are those of the operator's own manifests.
pub async fn operator_and_gateway_may_do_what_the_manifests_say(on: Arc<Release>) {
    let text = fs::read_to_string(root().join("deploy/operator/operator.yaml")).expect("the manifests");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let roles: Vec<_> = documents.into_iter().filter(|document| document["kind"] == "Role").collect();
    assert_eq!(roles.len(), 2);
    for role in roles {
        let name = role["metadata"]["name"].as_str().expect("a name");
        let there = on.kubectl(&["get", "role", name, "--output", "json"]).await.expect("a Role");
        let there: Value = serde_json::from_str(&there).expect("JSON");
        assert_eq!(there["rules"], role["rules"], "{name}");
    }
}

/// What the chart renders, as the API server's strictest reading has it; and the same bytes each time.
pub async fn everything_rendered_is_accepted_strictly(on: Arc<Release>) {
    let every = json!({
        "ingress": { "enabled": true, "className": "any", "host": "shop.example", "tlsSecret": "tls" },
        "image": { "pullSecrets": ["registry"] },
        "networkPolicy": { "scrapeNamespaces": ["monitoring"] },
        "services": { "orders": { "image": "localhost/orders:1", "database": {}, "env": [{ "name": "A", "value": "b" }] } },
    });
    let folder = tempfile::tempdir().expect("a folder");
    for (file, values) in [("default", json!({})), ("every", every)] {
        let (values_file, rendered) = (folder.path().join("values.json"), folder.path().join(file));
        fs::write(&values_file, values.to_string()).expect("it is written");
        let values_file = values_file.to_string_lossy();
        let template = ["template", "hedgerow", "helm/hedgerow", "--namespace", &on.name, "--values", &values_file];
        let [once, twice] = [run("helm", &template).await, run("helm", &template).await];
        let once = once.expect("it renders");
        assert_eq!(Ok(&once), twice.as_ref(), "the same bytes twice");
        fs::write(&rendered, once).expect("it is written");
        let rendered = rendered.to_string_lossy();
        let command = ["apply", "--dry-run=server", "--validate=strict", "--server-side", "--force-conflicts", "-f"];
        let said = on.kubectl(&[&command[..], &[&*rendered]].concat()).await.expect("the API server accepts it");
        let kinds = said.lines().filter_map(|line| line.split(['.', '/']).next()).fold(
            BTreeMap::<_, u32>::new(),
            |mut kinds, kind| {
                *kinds.entry(kind).or_default() += 1;
                kinds
            },
        );
        println!("{file}: {kinds:?}");
        assert!(kinds.contains_key("microservice") && kinds.contains_key("statefulset"), "{said}");
    }
}
