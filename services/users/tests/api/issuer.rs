//! A service that is an issuer and accepts its own tokens, in mode `required` or `open`.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use chassis::AuthArgs;
use identity::{
    Mode,
    sign::{ACCESS_TOKEN, SigningKey, key_set},
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use test_support::{
    app::{App, Response, database_url},
    process::{TIMEOUT, eventually},
};
use users::{IssuerArgs, Kek, Lifetimes};
use uuid::Uuid;

/// The issuer, as its tokens name it.
pub const URL: &str = "https://shop.example";

/// An issuer that tests sign for, with a role that lets them begin.
const ROOT: &str = "https://root.example";

/// An issuer of services that tests sign for.
const CLUSTER: &str = "https://cluster.example";

/// A password that is accepted.
pub const PASSWORD: &str = "a tall heron waits";

/// A running issuer.
pub struct Issuer {
    pub app: App,
    root: SigningKey,
    directory: TempDir,
}

/// The settings of an issuer with this key-encryption key.
pub fn settings(kek: u8, lifetimes: Lifetimes) -> IssuerArgs {
    let kek = Kek::parse(&[kek; 32]).expect("a key");
    IssuerArgs { auth_issuer_url: Some(URL.to_owned()), auth_kek_file: Some(kek), lifetimes }
}

/// Starts an issuer on the test's database, and waits until it accepts its own tokens.
pub async fn start_issuer(pool: &PgPool) -> Issuer {
    start_issuer_in(pool, Mode::Required).await
}

/// The same in a mode.
pub async fn start_issuer_in(pool: &PgPool, mode: Mode) -> Issuer {
    let issuer = Issuer::start_in(pool, settings(7, Lifetimes::default()), mode).await;
    issuer.publish().await;
    issuer
}

impl Issuer {
    /// Starts an issuer, whose keys may not be there yet.
    pub async fn start(pool: &PgPool, settings: IssuerArgs) -> Self {
        Self::start_in(pool, settings, Mode::Required).await
    }

    async fn start_in(pool: &PgPool, settings: IssuerArgs, mode: Mode) -> Self {
        let (root, directory) = (SigningKey::generate().expect("a key"), TempDir::new().expect("a directory"));
        let issuers = issuers(directory.path());
        fs::write(directory.path().join("root.json"), key_set([root.jwk()]).to_string()).expect("written");
        let auth = AuthArgs { auth: Some(mode), auth_issuers: Some(issuers.to_string()), ..AuthArgs::default() };
        let database = database_url(&pool.connect_options());
        let app = App::start_with_args(&users::SERVICE, database, settings, |args| args.auth = auth).await;
        Self { app, root, directory }
    }

    /// Waits until the keys are there. Returns them.
    pub async fn keys(&self) -> Value {
        eventually("the keys are published", TIMEOUT, async || {
            let response = self.app.get("/.well-known/jwks.json").await;
            (response.status == 200).then(|| response.json(200))
        })
        .await
    }

    /// Tells the service's own verifier the keys.
    pub async fn publish(&self) {
        let keys = self.keys().await;
        let path = self.directory.path().join("keys.json");
        fs::write(path.with_extension("new"), keys.to_string()).expect("written");
        fs::rename(path.with_extension("new"), path).expect("renamed");
    }

    /// A token of another issuer with these claims.
    pub fn foreign_token(&self, claims: &Value) -> String {
        sign(&self.root, claims)
    }

    /// The token of the gateway, as a service.
    pub fn gateway(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let subject = "system:serviceaccount:shop:gateway";
        let claims = json!({"iss": CLUSTER, "aud": ["users"], "sub": subject, "exp": now + 600});
        self.root.sign(&claims, "JWT").expect("a token")
    }

    /// The token of an administrator.
    pub fn admin(&self) -> String {
        admin_token(&self.root)
    }

    /// Sends a request with a token.
    pub async fn send(&self, method: Method, path: &str, token: &str, body: Option<&Value>) -> Response {
        let request = self.app.request(method, path).bearer_auth(token);
        self.app.send(body.into_iter().fold(request, RequestBuilder::json)).await
    }

    /// Creates a user with a password. Returns the id.
    pub async fn user(&self, email: &str) -> Uuid {
        let body = json!({"name": "Ada", "email": email});
        let user = self.send(Method::POST, "/users", &self.admin(), Some(&body)).await.json(201);
        let id = user["id"].as_str().expect("an id").parse().expect("a UUID");
        self.set_password(id, PASSWORD).await;
        id
    }

    /// Sets a password as an administrator.
    pub async fn set_password(&self, id: Uuid, password: &str) {
        let path = format!("/users/{id}/password");
        let response = self.send(Method::PUT, &path, &self.admin(), Some(&json!({"new": password}))).await;
        assert_eq!(response.status, 204, "{}", response.text());
    }

    /// Tries to log in.
    pub async fn log_in(&self, email: &str, password: &str) -> Response {
        self.app.post("/auth/login", &json!({"email": email, "password": password})).await
    }

    /// Tries to log in from an address.
    pub async fn log_in_from(&self, address: &str, email: &str, password: &str) -> Response {
        let request = self.app.request(Method::POST, "/auth/login").header("x-forwarded-for", address);
        self.app.send(request.json(&json!({"email": email, "password": password}))).await
    }

    /// Logs in. Returns the access token and the refresh token.
    pub async fn tokens(&self, email: &str) -> (String, String) {
        let tokens = tokens(&self.log_in(email, PASSWORD).await);
        // The service's own verifier reads the keys at intervals.
        eventually("the token is accepted", TIMEOUT, async || {
            let response = self.send(Method::GET, "/auth/me", &tokens.0, None).await;
            (response.status == 200).then_some(())
        })
        .await;
        tokens
    }

    /// Sends a form to `/oauth2/token`.
    pub async fn token_form(&self, form: &[(&str, &str)]) -> Response {
        self.app.send(with_form(self.app.request(Method::POST, "/oauth2/token"), form)).await
    }

    /// Exchanges a refresh token.
    pub async fn refresh(&self, token: &str) -> Response {
        self.token_form(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }
}

/// The issuers that the service accepts, with keys in this folder.
pub fn issuers(folder: &Path) -> Value {
    let url = |name: &str| format!("file://{}", folder.join(name).display());
    json!([
        {"issuer": URL, "jwks_url": url("keys.json")},
        {"issuer": ROOT, "jwks_url": url("root.json")},
        {"issuer": CLUSTER, "jwks_url": url("root.json"), "audience": "users", "kind": "service"},
    ])
}

/// The token of an administrator, signed with this key.
pub fn admin_token(root: &SigningKey) -> String {
    sign(root, &json!({"roles": ["admin"]}))
}

/// A token with these claims.
fn sign(root: &SigningKey, claims: &Value) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let mut all = json!({"iss": ROOT, "aud": "hedgerow", "sub": "root", "exp": now + 600});
    all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
    root.sign(&all, ACCESS_TOKEN).expect("a token")
}

/// Adds a form to a request.
pub fn with_form(request: RequestBuilder, form: &[(&str, &str)]) -> RequestBuilder {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    request.header("content-type", "application/x-www-form-urlencoded").body(body)
}

/// The access token and the refresh token of a response.
#[track_caller]
pub fn tokens(response: &Response) -> (String, String) {
    let body = response.json(200);
    assert_eq!(response.header("cache-control"), Some("no-store"));
    assert_eq!(body["token_type"], "Bearer");
    let text = |name: &str| body[name].as_str().expect("a token").to_owned();
    (text("access_token"), text("refresh_token"))
}

/// The claims of a token, which are not verified.
pub fn claims(token: &str) -> Value {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("a JWT")).expect("base64url");
    serde_json::from_slice(&claims).expect("JSON")
}

/// Checks an OAuth error.
#[track_caller]
pub fn assert_oauth_error(response: &Response, status: u16, error: &str) {
    assert_eq!(response.json(status)["error"], error);
    assert_eq!(response.header("cache-control"), Some("no-store"));
}

/// Short lives, so that a test sees a rotation.
pub fn short_lives() -> Lifetimes {
    Lifetimes {
        token: Duration::from_secs(1),
        lead: Duration::from_secs(1),
        rotation: Duration::from_secs(3),
        poll: Duration::from_millis(100),
    }
}
