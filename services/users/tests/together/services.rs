//! Users and inventory prove to each other who they are.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink, time::SystemTime};

use embedded_postgres::{Server, Settings};
use identity::sign::{ACCESS_TOKEN, SigningKey, key_set};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::process::{Process, TIMEOUT, eventually};
use tokio::task::JoinSet;

use crate::{METHOD, program, ready};

const ISSUER: &str = "https://issuer.example";
const CLUSTER: &str = "https://cluster.example";
const USERS: &str = "system:serviceaccount:shop:users";

/// Both services in mode `required`. Inventory admits only users.
struct Shop {
    _postgres: Server,
    inventory: Process,
    users: Process,
    authority: Authority,
    wishlist: String,
}

/// The issuer of all tokens, and the folder with those of users.
struct Authority {
    key: SigningKey,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let (key, folder) = (SigningKey::generate().expect("a key"), TempDir::new().expect("a folder"));
        let keys = folder.path().join("keys.json");
        fs::write(&keys, key_set([key.jwk()]).to_string()).expect("written");
        let keys = format!("file://{}", keys.display());
        let issuers = json!([
            {"issuer": ISSUER, "jwks_url": keys, "audience": "hedgerow"},
            {"issuer": CLUSTER, "jwks_url": keys, "kind": "service"},
        ]);
        fs::write(folder.path().join("issuers.json"), issuers.to_string()).expect("written");
        Self { key, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// An administrator's token.
    fn admin(&self) -> String {
        let claims = json!({"iss": ISSUER, "aud": "hedgerow", "sub": "root", "roles": ["admin"], "exp": now() + 600});
        self.key.sign(&claims, ACCESS_TOKEN).expect("a token")
    }

    /// A service's token for inventory, which is accepted for this long: clocks may differ by 30 s.
    fn service(&self, subject: &str, accepted_for: u64) -> String {
        let exp = now() + accepted_for - 30;
        let claims = json!({"iss": CLUSTER, "aud": ["inventory"], "sub": subject, "exp": exp, "jti": exp.to_string()});
        self.key.sign(&claims, "JWT").expect("a token")
    }

    /// Gives users a token as the kubelet does: all files are behind a link that is replaced.
    fn publish(&self, token: &str) {
        let tokens = self.folder.path().join("tokens");
        fs::create_dir_all(&tokens).expect("a folder");
        let version = format!("..{}", uuid::Uuid::new_v4());
        fs::create_dir(tokens.join(&version)).expect("a folder");
        fs::write(tokens.join(&version).join("inventory"), token).expect("written");
        let before = fs::read_link(tokens.join("..data")).ok();
        symlink(&version, tokens.join("..data_tmp")).expect("a link");
        fs::rename(tokens.join("..data_tmp"), tokens.join("..data")).expect("renamed");
        let _ = symlink("..data/inventory", tokens.join("inventory"));
        if let Some(before) = before {
            fs::remove_dir_all(tokens.join(before)).expect("removed");
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs()
}

impl Shop {
    /// Starts both services. Users begins with this token.
    async fn start(authority: Authority, token: &str) -> Self {
        authority.publish(token);
        let postgres = Server::temporary(&Settings::for_tests()).expect("a Postgres server");
        let secured = async |service: &str| {
            let program = program(&postgres, service).await.variable("AUTH", "required");
            program.variable("AUTH_ISSUERS", authority.path("issuers.json")).variable("AUTH_AUDIENCE", service)
        };
        let inventory = secured("inventory").await.variable("AUTH_ALLOW_FROM", USERS).serve().await;
        ready(&inventory).await;
        let url = format!("http://{}", inventory.grpc.expect("a gRPC port"));
        let users = secured("users").await.variable("AUTH_TOKEN_DIR", authority.path("tokens"));
        let users = users.variable("INVENTORY_GRPC_URL", url).serve().await;
        ready(&users).await;
        let new = json!({"name": "Ada", "email": "ada@example.com", "wishlist": ["p"]});
        let created = Client::new().post(users.url("/users")).bearer_auth(authority.admin()).json(&new).send().await;
        let user: Value = created.expect("a response").json().await.expect("JSON");
        let wishlist = users.url(&format!("/users/{}/wishlist", user["id"].as_str().expect("an id")));
        Self { _postgres: postgres, inventory, users, authority, wishlist }
    }

    /// Whether users gets the stock from inventory.
    async fn has_stock(&self) -> bool {
        get(&Client::new(), &self.wishlist, &self.authority.admin()).await["degraded"] == false
    }

    async fn eventually_has_stock(&self, expected: bool) {
        let has_stock = async || (self.has_stock().await == expected).then_some(());
        eventually(if expected { "inventory responds" } else { "inventory refuses" }, TIMEOUT, has_stock).await;
    }

    /// The codes of the calls that users has made.
    async fn codes(&self) -> BTreeSet<String> {
        let metrics = Client::new().get(self.users.admin_url("/metrics")).send().await.expect("a response");
        let metrics = metrics.text().await.expect("text");
        let codes = metrics.lines().filter_map(|line| line.strip_prefix("grpc_client_requests_total{code=\""));
        codes.map(|line| line.split('"').next().expect("a code").to_owned()).collect()
    }
}

async fn get(client: &Client, wishlist: &str, token: &str) -> Value {
    let response = client.get(wishlist).bearer_auth(token).send().await.expect("a response");
    assert_eq!(response.status(), 200);
    response.json().await.expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_admitted_by_its_name() {
    let authority = Authority::new();
    let own = authority.service(USERS, 600);
    let shop = Shop::start(authority, &own).await;
    shop.eventually_has_stock(true).await;
    assert!(!shop.codes().await.contains("PERMISSION_DENIED"));

    let stranger = "system:serviceaccount:shop:billing";
    let foreign = shop.authority.service(stranger, 600);
    shop.authority.publish(&foreign);
    shop.eventually_has_stock(false).await;
    assert!(shop.codes().await.contains("PERMISSION_DENIED"));
    shop.authority.publish(&own);
    shop.eventually_has_stock(true).await;

    let Shop { inventory, users, authority, .. } = shop;
    let (inventory, users) = (inventory.stop().await, users.stop().await);
    let refusal = inventory.log().into_iter().find(|line| line["event"] == "refusal").expect("a line of the audit log");
    assert_eq!((&refusal["target"], &refusal["outcome"]), (&"audit".into(), &"not-admitted".into()), "{refusal}");
    assert_eq!((&refusal["subject"], &refusal["operation"]), (&stranger.into(), &"BatchGetStock".into()), "{refusal}");
    let signature = |token: &str| token.rsplit('.').next().expect("a signature").to_owned();
    for secret in [signature(&own), signature(&foreign), signature(&authority.admin())] {
        for output in [&inventory.stdout, &inventory.stderr, &users.stdout, &users.stderr] {
            assert!(!output.contains(&secret), "a token in {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_tokens_are_renewed() {
    const ACCEPTED_FOR: u64 = 5;
    let authority = Authority::new();
    let first = authority.service(USERS, 600);
    let shop = Shop::start(authority, &first).await;
    shop.eventually_has_stock(true).await;
    let first = shop.authority.service(USERS, ACCEPTED_FOR);
    shop.authority.publish(&first);
    // Before inventory was found, calls may have failed.
    let codes = shop.codes().await;

    let mut calls = JoinSet::new();
    for _ in 0..4 {
        let (wishlist, token) = (shop.wishlist.clone(), shop.authority.admin());
        calls.spawn(async move {
            let client = Client::new();
            loop {
                get(&client, &wishlist, &token).await;
            }
        });
    }
    // Long enough that the first token and several later ones would be refused by now.
    let client = Client::new();
    let stock = shop.inventory.url("/inventory/p");
    for _ in 0..2 {
        let old = shop.authority.service(USERS, ACCEPTED_FOR);
        eventually("the old token is refused", TIMEOUT, async || {
            shop.authority.publish(&shop.authority.service(USERS, ACCEPTED_FOR));
            let response = client.get(&stock).bearer_auth(&old).send().await.expect("a response");
            (response.status() == 401).then_some(())
        })
        .await;
        assert!(calls.try_join_next().is_none(), "a request failed");
    }
    let after: BTreeSet<_> = shop.codes().await.difference(&codes).cloned().collect();
    calls.shutdown().await;
    // A machine that pauses makes calls late, but no call is refused.
    let refused: Vec<_> = after.iter().filter(|code| !matches!(code.as_str(), "OK" | "DEADLINE_EXCEEDED")).collect();
    assert!(refused.is_empty(), "{refused:?} of {METHOD}");
    assert!(shop.has_stock().await);
}
