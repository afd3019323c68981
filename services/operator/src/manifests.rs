//! `operator manifests`: what runs the operator itself in a namespace, without a chart.

use serde_json::{Value, json};

/// The name of everything the operator is made of.
const NAME: &str = "hedgerow-operator";

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

fn objects(image: &str) -> [Value; 5] {
    [
        object("v1", "ServiceAccount", json!({ "automountServiceAccountToken": false })),
        object("rbac.authorization.k8s.io/v1", "Role", json!({ "rules": rules() })),
        object(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            json!({
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME },
                "subjects": [{ "kind": "ServiceAccount", "name": NAME }],
            }),
        ),
        object("apps/v1", "Deployment", json!({ "spec": deployment(image) })),
        object(
            "policy/v1",
            "PodDisruptionBudget",
            json!({ "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector() } } }),
        ),
    ]
}

fn object(api_version: &str, kind: &str, fields: Value) -> Value {
    let mut object =
        json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": NAME, "labels": labels() } });
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

fn selector() -> Value {
    json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/component": "operator" })
}

fn labels() -> Value {
    let mut labels = selector();
    labels["app.kubernetes.io/part-of"] = "hedgerow".into();
    labels
}

/// All that it may do, in its namespace only.
fn rules() -> Value {
    let children = ["create", "delete", "get", "list", "patch", "watch"];
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
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
            "labelSelector": { "matchLabels": selector() }, "matchLabelKeys": ["pod-template-hash"],
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
        "selector": { "matchLabels": selector() },
        "template": {
            "metadata": {
                "labels": labels(),
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
