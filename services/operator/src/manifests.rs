//! `operator manifests`: what runs the operator itself in a namespace, without a chart, and what lets a gateway find
//! services there.

use serde_json::{Value, json};

/// The name of everything the operator is made of.
const NAME: &str = "hedgerow-operator";
/// The name of what lets the gateway find services. The operator may not give what it does not have itself.
const GATEWAY: &str = "hedgerow-gateway";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// The operator's objects as YAML documents, with this image.
///
/// # Errors
/// Where they cannot be written: a mistake in the code.
pub(crate) fn documents(image: &str) -> anyhow::Result<String> {
    let mut all = String::from("# Made by `make manifests`.\n");
    for object in objects(image) {
        all.push_str("---\n");
        all.push_str(&serde_saphyr::to_string(&object)?);
    }
    Ok(all)
}

fn objects(image: &str) -> [Value; 7] {
    let of_operator = |api_version, kind, fields| object(api_version, kind, NAME, "operator", fields);
    [
        of_operator("v1", "ServiceAccount", json!({ "automountServiceAccountToken": false })),
        of_operator(RBAC, "Role", json!({ "rules": rules() })),
        of_operator(RBAC, "RoleBinding", binding(NAME, NAME)),
        of_operator("apps/v1", "Deployment", json!({ "spec": deployment(image) })),
        of_operator(
            "policy/v1",
            "PodDisruptionBudget",
            json!({ "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector(NAME, "operator") } } }),
        ),
        object(RBAC, "Role", GATEWAY, "gateway", json!({ "rules": rules_of_the_gateway() })),
        // Its ServiceAccount comes with the `Microservice` of that name.
        object(RBAC, "RoleBinding", GATEWAY, "gateway", binding(GATEWAY, "gateway")),
    ]
}

fn binding(role: &str, account: &str) -> Value {
    json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": account }],
    })
}

fn object(api_version: &str, kind: &str, name: &str, component: &str, fields: Value) -> Value {
    let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name, "labels": labels(name, component) } });
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

fn selector(name: &str, component: &str) -> Value {
    json!({ "app.kubernetes.io/name": name, "app.kubernetes.io/component": component })
}

fn labels(name: &str, component: &str) -> Value {
    let mut labels = selector(name, component);
    labels["app.kubernetes.io/part-of"] = "hedgerow".into();
    labels
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": resources, "verbs": verbs })
}

fn rules_of_the_gateway() -> Value {
    let watch = ["get", "list", "watch"];
    json!([rule("", &["services"], &watch), rule("discovery.k8s.io", &["endpointslices"], &watch)])
}

/// All that the operator may do, in its namespace only.
fn rules() -> Value {
    let children = ["create", "delete", "get", "list", "patch", "watch"];
    json!([
        rule("hedgerow.dev", &["microservices"], &["get", "list", "patch", "watch"]),
        rule("hedgerow.dev", &["microservices/finalizers"], &["update"]),
        rule("hedgerow.dev", &["microservices/status"], &["patch"]),
        rule("", &["serviceaccounts", "services"], &children),
        rule("apps", &["deployments"], &children),
        rule("batch", &["jobs"], &children),
        rule("autoscaling", &["horizontalpodautoscalers"], &children),
        rule("policy", &["poddisruptionbudgets"], &children),
        rule("networking.k8s.io", &["networkpolicies"], &children),
        rule("monitoring.coreos.com", &["podmonitors"], &children),
        rule("", &["pods"], &["list"]),
        // One by one: it may not list them.
        rule("", &["secrets"], &["create", "get", "patch"]),
        // What is created has no name yet that a rule could give.
        rule("coordination.k8s.io", &["leases"], &["create"]),
        { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [NAME], "verbs": ["get", "patch"] },
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ])
}

fn deployment(image: &str) -> Value {
    let from_field =
        |name: &str, field: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": field } } });
    let probe = |path: &str| json!({ "httpGet": { "path": path, "port": "admin" }, "timeoutSeconds": 2 });
    let spread = |key: &str| {
        json!({
            "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector(NAME, "operator") }, "matchLabelKeys": ["pod-template-hash"],
        })
    };
    let container = json!({
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["run"],
        "env": [from_field("NAMESPACE", "metadata.namespace"), from_field("POD_NAME", "metadata.name")],
        "ports": [{ "name": "admin", "containerPort": 9090 }],
        "startupProbe": { "httpGet": { "path": "/livez", "port": "admin" }, "periodSeconds": 1, "failureThreshold": 60 },
        "livenessProbe": probe("/livez"),
        "readinessProbe": probe("/readyz"),
        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    json!({
        // One acts, the other takes over.
        "replicas": 2,
        "selector": { "matchLabels": selector(NAME, "operator") },
        "template": {
            "metadata": {
                "labels": labels(NAME, "operator"),
                "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "9090", "prometheus.io/path": "/metrics" },
            },
            "spec": {
                "serviceAccountName": NAME,
                "automountServiceAccountToken": true,
                "enableServiceLinks": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
                "containers": [container],
            },
        },
    })
}
