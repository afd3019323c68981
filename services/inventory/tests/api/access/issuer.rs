//! An issuer of tokens, and callers who have them.

use std::{fs, time::SystemTime};

use chassis::AuthArgs;
use identity::{
    Mode,
    sign::{ACCESS_TOKEN, SigningKey, key_set},
};
use inventory::Retention;
use reqwest::{Method, header};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use test_support::app::{App, Response, database_url};
use tonic::Request;

/// The issuers that the service trusts. They have the same key.
pub const ISSUERS: [&str; 2] = ["https://issuer.example", "https://other.example"];

/// The issuer of services that the service trusts, with the same key.
const CLUSTER: &str = "https://cluster.example";

/// Issuers whose keys are in a file.
pub struct Issuer {
    key: SigningKey,
    directory: TempDir,
}

/// The value of the header `Authorization`.
pub type Token = String;

/// A caller without a token.
pub const NOBODY: Token = Token::new();

impl Issuer {
    pub fn new() -> Self {
        let key = SigningKey::generate().expect("a key");
        let directory = TempDir::new().expect("a directory");
        fs::write(directory.path().join("keys.json"), key_set([key.jwk()]).to_string()).expect("written");
        Self { key, directory }
    }

    /// Starts the service with these issuers.
    pub async fn start(&self, pool: &PgPool, mode: Mode) -> App {
        self.start_for(pool, mode, "any").await
    }

    /// Starts the service with these issuers, and services that may call it.
    pub async fn start_for(&self, pool: &PgPool, mode: Mode, allow_from: &str) -> App {
        let keys = format!("file://{}", self.directory.path().join("keys.json").display());
        let admin = json!({"claim": "sub", "map": {service_account("hedgerow-admin"): "admin"}});
        let cluster = json!({"issuer": CLUSTER, "jwks_url": keys, "kind": "service", "roles": admin});
        let [one, other] = ISSUERS.map(|issuer| json!({"issuer": issuer, "jwks_url": keys, "audience": "hedgerow"}));
        let auth = AuthArgs {
            auth: Some(mode),
            auth_issuers: Some(json!([one, other, cluster]).to_string()),
            auth_audience: "inventory".to_owned(),
        };
        let database = database_url(&pool.connect_options());
        let allow_from = allow_from.parse().expect("any text is a list");
        App::start_with_args(&inventory::SERVICE, database, Retention::default(), |args| {
            (args.auth, args.auth_allow_from) = (auth, allow_from);
        })
        .await
    }

    /// A token of a subject with more claims, or other ones than usual.
    pub fn token(&self, subject: &str, more: &Value) -> Token {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs();
        let mut claims = json!({"iss": ISSUERS[0], "aud": "hedgerow", "sub": subject, "exp": now + 600});
        claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        format!("Bearer {}", self.key.sign(&claims, ACCESS_TOKEN).expect("a token"))
    }

    /// The token of a service that calls inventory.
    pub fn service(&self, name: &str) -> Token {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs();
        let subject = service_account(name);
        let claims = json!({"iss": CLUSTER, "aud": ["inventory"], "sub": subject, "exp": now + 600});
        format!("Bearer {}", self.key.sign(&claims, "JWT").expect("a token"))
    }

    /// A person's token.
    pub fn user(&self, name: &str) -> Token {
        self.token(name, &json!({"roles": ["user"]}))
    }

    /// An administrator's token.
    pub fn admin(&self) -> Token {
        self.token("root", &json!({"roles": ["admin"]}))
    }
}

/// The subject of the tokens of a service.
pub fn service_account(name: &str) -> String {
    format!("system:serviceaccount:shop:{name}")
}

/// Sends a request with a body, if there is one.
pub async fn send(app: &App, token: &Token, method: &str, path: &str, body: Option<&Value>) -> Response {
    send_with(app, token, method, path, body, &[]).await
}

/// Sends a request with more headers.
pub async fn send_with(
    app: &App,
    token: &Token,
    method: &str,
    path: &str,
    body: Option<&Value>,
    headers: &[(&str, &str)],
) -> Response {
    let mut request = app.request(method.parse::<Method>().expect("a method"), path);
    if *token != NOBODY {
        request = request.header(header::AUTHORIZATION, token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    app.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
}

/// A call with a token.
pub fn call<T>(token: &Token, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if *token != NOBODY {
        request.metadata_mut().insert("authorization", token.parse().expect("ASCII"));
    }
    request
}

/// The body of a request to reserve one of each product.
pub fn basket(products: &[&str]) -> Value {
    let items = products.iter().map(|product| json!({"product_id": product, "quantity": 1}));
    json!({"items": items.collect::<Vec<_>>()})
}

/// Reserves one of each product and returns the path of the reservation.
pub async fn reserve(app: &App, token: &Token, products: &[&str]) -> String {
    let made = send(app, token, "POST", "/reservations", Some(&basket(products))).await;
    made.json(201);
    made.header("location").expect("a path").to_owned()
}

/// Sets the stock of a product.
pub async fn stock_up(app: &App, issuer: &Issuer, product: &str) {
    let stock = json!({"stock": 1000});
    send(app, &issuer.admin(), "POST", &format!("/inventory/{product}"), Some(&stock)).await.json(201);
}
