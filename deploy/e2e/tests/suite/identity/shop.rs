//! A release in mode `required`, with a foreign identity provider and a load whose keys are rotated.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use k8s_openapi::api::core::v1::Secret;
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::dex::{self, Dex};
use crate::{
    command::{Running, run},
    release::Release,
    tool::{Load, Tool},
};

/// Requests per second of the load.
pub const RATE: u32 = 100;

/// The settings of `users` for tests: keys sign for 40 s. A verifier reads the keys again because of an unknown one at
/// most every 30 s.
const KEYS: &str = r#"services.users.env=[
    {"name":"AUTH_KEY_LEAD","value":"10s"},
    {"name":"AUTH_KEY_ROTATION","value":"40s"},
    {"name":"AUTH_KEY_POLL","value":"1s"}
]"#;

/// The Secret with the client of the load.
const CLIENT: &str = "load-client";

/// A release that the cases of this module share.
pub struct Shop {
    pub release: Release,
    /// A URL of the gateway.
    pub url: String,
    /// `None` if dex is not installed.
    pub dex: Option<Dex>,
    /// The token of `hedgerow-admin`.
    pub admin: String,
    /// The key that signed the first token of the load.
    pub first_key: String,
    load: Mutex<Option<Load>>,
    secrets: Mutex<BTreeMap<String, &'static str>>,
    client: reqwest::Client,
    _forward: Running,
}

static SHOP: AsyncMutex<Option<Arc<Shop>>> = AsyncMutex::const_new(None);

/// Set as soon as there is a namespace to delete.
static BEGUN: OnceLock<Release> = OnceLock::new();

/// A response.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Null if it is not JSON.
    pub body: Value,
}

impl Answer {
    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// A text of the body.
    #[track_caller]
    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("the response has no {field}")).to_owned()
    }

    /// The challenge of a refusal, or an empty text.
    pub fn challenge(&self) -> &str {
        self.headers.get("www-authenticate").and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Shop {
    /// The release, which the first case that needs it installs.
    pub async fn get() -> Arc<Self> {
        let mut shop = SHOP.lock().await;
        if let Some(shop) = &*shop {
            return shop.clone();
        }
        assert!(BEGUN.get().is_none(), "the install failed before");
        shop.insert(Arc::new(Self::install().await)).clone()
    }

    async fn install() -> Self {
        let mut release = Release::prepare("-identity").await;
        let _ = BEGUN.set(Release::named(&release));
        let dex_issuers = format!("auth.issuers={}", dex::issuers());
        let mut values = vec![
            r#"auth.mode="required""#,
            KEYS,
            // Only callers reach them.
            "services.users.network.allowFrom=[]",
            "services.inventory.network.allowFrom=[]",
        ];
        let with_dex = dex::is_installed();
        if with_dex {
            values.push(&dex_issuers);
        }
        let begun = Instant::now();
        let (dex, installed) = tokio::join!(
            async { if with_dex { Some(Dex::start(&release).await) } else { None } },
            release.install(&values)
        );
        release.notes = installed.unwrap_or_else(|error| panic!("helm install: {error}"));
        println!("helm install --wait in mode required: {:.1} s", begun.elapsed().as_secs_f64());
        let (forward, url) = Running::forward(&release.name, "gateway").await;
        // The command of the notes, without the name of its variable.
        let line = release.notes.lines().find(|line| line.trim_start().starts_with("TOKEN=$("));
        let line = line.unwrap_or_else(|| panic!("the notes lack a token:\n{}", release.notes)).trim();
        let command = line.trim_start_matches("TOKEN=$(").trim_end_matches(')');
        let admin = run("sh", &["-c", command]).await.expect("a token").trim().to_owned();
        let mut shop = Self {
            release,
            url,
            dex,
            admin: admin.clone(),
            first_key: String::new(),
            load: Mutex::default(),
            secrets: Mutex::default(),
            client: reqwest::Client::new(),
            _forward: forward,
        };
        shop.secret("token of hedgerow-admin", &admin);
        shop.start_load().await;
        shop
    }

    /// Starts requests with the tokens of a machine, which last until [`stop_load`](Self::stop_load).
    async fn start_load(&mut self) {
        self.send(Method::POST, "/inventory/e2e", &self.admin, json!({ "stock": 1000 })).await.expect(201);
        let (id, secret) = self.machine(&["inventory:write", "users:read"]).await;
        self.first_key = key_of(&self.machine_token(&id, &secret).await);
        let object = json!({ "metadata": { "name": CLIENT }, "stringData": { "client": format!("{id}:{secret}") } });
        self.release.create::<Secret>(object).await;
        let rate = RATE.to_string();
        let arguments = [
            "load",
            "--duration",
            "30m",
            "--rate",
            &rate,
            "--token-url",
            "http://gateway:8080/oauth2/token",
            "--client-file",
            "/secret/client",
            "--token-interval",
            "1s",
            "--get",
            "http://gateway:8080/inventory/e2e",
            "--get",
            "http://gateway:8080/users?limit=1",
            "--post",
            "http://gateway:8080/inventory/e2e",
            "--body",
            r#"{"stock":1000}"#,
        ];
        let tool = Tool::start_with_secret(&self.release, &arguments, CLIENT).await;
        let load = Load::of(tool).await;
        *self.load.lock().unwrap_or_else(PoisonError::into_inner) = Some(load);
    }

    /// Takes the load, to stop it.
    pub fn load(&self) -> Option<Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes a secret that no log and no database may have.
    pub fn secret(&self, what: &'static str, secret: &str) {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).insert(secret.to_owned(), what);
    }

    /// What was noted, with its name.
    pub fn secrets(&self) -> BTreeMap<String, &'static str> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a request with a token to the gateway, or without one if it is empty. Null is no body.
    pub async fn send(&self, method: Method, path: &str, token: &str, body: Value) -> Answer {
        self.send_to(&self.url, method, path, token, body).await
    }

    /// Like [`send`](Self::send), to another URL.
    pub async fn send_to(&self, url: &str, method: Method, path: &str, token: &str, body: Value) -> Answer {
        let mut request = self.client.request(method, format!("{url}{path}"));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        answer(request).await
    }

    /// Sends a form.
    pub async fn form(&self, url: &str, client: Option<(&str, &str)>, fields: &[(&str, &str)]) -> Answer {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.client.post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
        answer(match client {
            Some((id, secret)) => request.basic_auth(id, Some(secret)),
            None => request,
        })
        .await
    }

    /// Creates a user with a password, and returns the id.
    pub async fn user(&self, email: &str, password: &str) -> String {
        self.secret("password", password);
        let user = json!({ "name": "Ada", "email": email });
        let id = self.send(Method::POST, "/users", &self.admin, user).await.expect(201).text("id");
        let path = format!("/users/{id}/password");
        self.send(Method::PUT, &path, &self.admin, json!({ "new": password })).await.expect(204);
        id
    }

    /// Logs in, and returns the access token and the refresh token.
    pub async fn log_in(&self, email: &str, password: &str) -> (String, String) {
        let body = json!({ "email": email, "password": password });
        let answer = self.send(Method::POST, "/auth/login", "", body).await.expect(200);
        assert_eq!(answer.headers["cache-control"], "no-store");
        self.tokens(&answer)
    }

    /// Exchanges a refresh token.
    pub async fn refresh(&self, token: &str) -> Answer {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        self.form(&format!("{}/oauth2/token", self.url), None, &fields).await
    }

    /// The access token and the refresh token of a response.
    pub fn tokens(&self, answer: &Answer) -> (String, String) {
        let (access, refresh) = (answer.text("access_token"), answer.text("refresh_token"));
        self.secret("access token", &access);
        self.secret("refresh token", &refresh);
        (access, refresh)
    }

    /// Creates a machine with these scopes, and returns its id and its secret.
    pub async fn machine(&self, scopes: &[&str]) -> (String, String) {
        let body = json!({ "name": "shop floor", "scopes": scopes });
        let answer = self.send(Method::POST, "/auth/clients", &self.admin, body).await.expect(201);
        let (id, secret) = (answer.text("client_id"), answer.text("client_secret"));
        self.secret("client secret", &secret);
        (id, secret)
    }

    /// Gets the token of a machine.
    pub async fn machine_token(&self, id: &str, secret: &str) -> String {
        let url = format!("{}/oauth2/token", self.url);
        let answer = self.form(&url, Some((id, secret)), &[("grant_type", "client_credentials")]).await.expect(200);
        let token = answer.text("access_token");
        self.secret("access token of a machine", &token);
        token
    }

    /// A token of a service account of the release.
    pub async fn service_token(&self, account: &str, audience: &str) -> String {
        let token = self.release.kubectl(&["create", "token", account, "--audience", audience]).await;
        let token = token.expect("a token").trim().to_owned();
        self.secret("token of a service", &token);
        token
    }

    /// Ends the release if a case has begun to install it.
    pub async fn end(has_failed: bool) {
        // Ends its processes and its load.
        drop(SHOP.lock().await.take());
        let Some(release) = BEGUN.get() else { return };
        if has_failed {
            release.describe().await;
        }
        release.end().await;
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let request = request.timeout(Duration::from_secs(20));
    let response = request.send().await.expect("a response");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("a body");
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or_default() }
}

/// The `kid` of a token.
pub fn key_of(token: &str) -> String {
    let header = token.split('.').next().expect("a header");
    let header = BASE64_URL_SAFE_NO_PAD.decode(header).expect("base64");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a kid").to_owned()
}
