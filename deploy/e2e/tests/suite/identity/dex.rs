//! dex, an identity provider that is not ours, in a pod of the image of Postgres, which has a shell.

use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};
use test_support::cluster::{Namespace, SOON, eventually};

use super::shop::Shop;
use crate::{
    command::{Running, run},
    tool::is_ready,
};

/// Its URL in the cluster.
const ISSUER: &str = "http://dex:8080/dex";

/// The password of its users, and its bcrypt hash.
const PASSWORD: &str = "the clerk of another house";
const HASH: &str = "$2b$10$dWT62W9sRfllGdD3t6nZk.jAqWDmA34qV3xW3kX3UhH8pfDk16jz.";
/// The secret of its clients.
const SECRET: &str = "a-secret-of-another-house";

/// Its audience that is accepted, and one that is not.
pub const ACCEPTED: &str = "shop";
pub const OTHER: &str = "elsewhere";

/// Its users: one whose group is mapped to the role admin, one to the role user, and one whose group means nothing.
pub const CHIEF: &str = "chief@dex.invalid";
pub const CLERK: &str = "clerk@dex.invalid";
pub const GUEST: &str = "guest@dex.invalid";

/// A server that runs.
pub struct Dex {
    url: String,
    _forward: Running,
}

/// Whether there is a program `dex`. CI must have it.
pub fn is_installed() -> bool {
    super::has_tool("dex")
}

/// What the release knows of it: `auth.issuers`.
pub fn issuers() -> Value {
    json!([{
        "issuer": ISSUER, "audience": ACCEPTED, "typ": [""], "accept_id_tokens": true,
        "scopes": { "claim": "scope", "map": {} },
        "roles": { "claim": "groups", "map": { "shop-admins": "admin", "staff": "user" } },
    }])
}

fn configuration() -> Value {
    let user = |email: &str, group: &str| json!({ "email": email, "username": email, "userID": email, "groups": [group], "hash": HASH });
    let client = |id: &str| json!({ "id": id, "name": id, "secret": SECRET });
    json!({
        "issuer": ISSUER,
        "storage": { "type": "memory" },
        "web": { "http": "0.0.0.0:8080" },
        "oauth2": { "passwordConnector": "local" },
        "enablePasswordDB": true,
        "staticClients": [client(ACCEPTED), client(OTHER)],
        // A role of ours is not one there.
        "staticPasswords": [user(CHIEF, "shop-admins"), user(CLERK, "staff"), user(GUEST, "admin")],
    })
}

impl Dex {
    /// Starts it, and waits until it is ready.
    pub async fn start(on: &Namespace) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, configuration().to_string()).expect("the file is written");
        let pod = json!({
            "metadata": { "name": "dex", "labels": { "app": "dex" } },
            "spec": {
                "automountServiceAccountToken": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "volumes": [{ "name": "dex", "emptyDir": {} }],
                "containers": [{
                    "name": "dex", "image": "postgres:15", "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", "until [ -e /dex/ready ]; do sleep .1; done; exec /dex/dex serve /dex/config"],
                    "volumeMounts": [{ "name": "dex", "mountPath": "/dex" }],
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                    "readinessProbe": { "httpGet": { "path": "/dex/healthz", "port": 8080 }, "periodSeconds": 1 },
                }],
            },
        });
        let service = json!({
            "metadata": { "name": "dex" },
            "spec": { "selector": { "app": "dex" }, "ports": [{ "port": 8080 }] },
        });
        on.create::<Service>(service).await;
        on.create::<Pod>(pod).await;
        on.api::<Pod>().get("dex").await.expect("the pod");
        let wait = ["wait", "--namespace", &on.name, "pod/dex", "--timeout=60s", "--for"];
        run("kubectl", &[&wait[..], &["jsonpath={.status.phase}=Running"]].concat()).await.expect("the pod runs");
        // The image has no `tar` for `kubectl cp`.
        let copy = |from: &str, to: &str| {
            format!("kubectl exec -i --namespace {} dex -- sh -c 'cat >/dex/{to}' <{from}", on.name)
        };
        let file = file.display().to_string();
        let script = format!(
            "set -e; {}; {}; kubectl exec --namespace {} dex -- sh -c 'chmod +x /dex/dex && touch /dex/ready'",
            copy(&file, "config"),
            copy("\"$(command -v dex)\"", "dex"),
            on.name
        );
        run("sh", &["-c", &script]).await.expect("the files are copied");
        eventually("dex is ready", SOON, async || on.api::<Pod>().get("dex").await.is_ok_and(|pod| is_ready(&pod)))
            .await;
        let (forward, url) = Running::forward_to(&on.name, "pod/dex").await;
        Self { url: format!("{url}/dex"), _forward: forward }
    }

    /// Logs a user in, for an audience.
    pub async fn log_in(&self, shop: &Shop, email: &str, audience: &str) -> String {
        for (what, secret) in [("password of dex", PASSWORD), ("client secret of dex", SECRET)] {
            shop.secret(what, secret);
        }
        let fields =
            [("grant_type", "password"), ("username", email), ("password", PASSWORD), ("scope", "openid groups")];
        let answer = shop.form(&format!("{}/token", self.url), Some((audience, SECRET)), &fields).await.expect(200);
        let token = answer.text("access_token");
        shop.secret("token of dex", &token);
        token
    }
}
