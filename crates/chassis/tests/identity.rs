//! Who may call what: a service with and without issuers, over HTTP and gRPC.

use std::{fs, time::SystemTime};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chassis::{
    AuthArgs, Identity, Problem, Service,
    grpc::{Grpc, status},
};
use http::header;
use identity::sign::{ACCESS_TOKEN, SigningKey, key_set};
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use tempfile::TempDir;
use test_support::{
    app::App,
    process::{TIMEOUT, eventually},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tonic::service::Routes;
use utoipa_axum::{router::OpenApiRouter, routes};

static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

static SERVICE: Service<()> = Service {
    name: "identity",
    about: "Says who calls",
    version: "1.0.0",
    migrations: &NO_MIGRATIONS,
    api: || OpenApiRouter::new().routes(routes!(anyone)).routes(routes!(adjust)).routes(routes!(log_in)),
    grpc: Some(Grpc { routes: |()| Routes::from(Router::new().route("/test.Who/Am", post(who))), descriptors: &[] }),
    peers: &[],
    state: |_| (),
};

#[utoipa::path(get, path = "/anyone", responses((status = OK)))]
async fn anyone(identity: Identity) -> String {
    identity.subject().to_owned()
}

#[utoipa::path(post, path = "/stock", responses((status = OK)), security(("bearer" = ["inventory:write"])))]
async fn adjust(identity: Identity) -> Result<String, Problem> {
    identity.require_scope("inventory:write")?;
    Ok(identity.subject().to_owned())
}

#[utoipa::path(post, path = "/login", responses((status = OK)), security(()))]
async fn log_in(identity: Identity) -> String {
    identity.subject().to_owned()
}

async fn who(request: Request) -> Response {
    let identity = Identity::of(request.extensions());
    match identity.require_scope("inventory:write") {
        Ok(()) => ([("content-type", "application/grpc"), ("grpc-status", "0")], "").into_response(),
        Err(refusal) => status(refusal.into()).into_http(),
    }
}

/// An issuer whose keys are in a file.
struct Issuer {
    key: SigningKey,
    directory: TempDir,
}

impl Issuer {
    fn new() -> Self {
        let key = SigningKey::generate().expect("a key");
        let directory = TempDir::new().expect("a directory");
        fs::write(directory.path().join("keys.json"), key_set([key.jwk()]).to_string()).expect("a written file");
        Self { key, directory }
    }

    fn args(&self) -> AuthArgs {
        let keys = format!("file://{}", self.directory.path().join("keys.json").display());
        let issuers = json!([{ "issuer": "https://issuer.example", "jwks_url": keys }]);
        AuthArgs { auth_issuers: Some(issuers.to_string()), ..AuthArgs::default() }
    }

    fn authorization(&self, changes: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs();
        let mut claims = json!({ "iss": "https://issuer.example", "aud": "hedgerow", "sub": "ada", "exp": now + 600 });
        claims.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        format!("Bearer {}", self.key.sign(&claims, ACCESS_TOKEN).expect("a token"))
    }
}

async fn start(auth: AuthArgs) -> App {
    let database = "postgres://nobody@127.0.0.1:1/none".to_owned();
    App::start_with_args(&SERVICE, database, (), |args| args.auth = auth).await
}

/// The status, the challenge, and the body or the problem's type and reason.
async fn send(app: &App, method: &str, path: &str, authorization: Option<&str>) -> (u16, String, String) {
    let mut request = app.request(method.parse().expect("a method"), path);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    let response = app.send(request).await;
    let challenge = response.header("www-authenticate").map(str::to_owned);
    let (status, body) = (response.status, response.text());
    let problem: Option<Value> = serde_json::from_str(&body).ok();
    let problem = problem.map(|problem| {
        let kind = problem["type"].as_str().expect("a type").rsplit('/').next().expect("a name").to_owned();
        problem["reason"].as_str().map_or(kind.clone(), |reason| format!("{kind} {reason}"))
    });
    (status, challenge.unwrap_or_default(), problem.unwrap_or(body))
}

#[tokio::test]
async fn the_mode_decides_what_a_request_without_token_may() {
    let issuer = Issuer::new();
    let (user, writer) =
        (issuer.authorization(&json!({})), issuer.authorization(&json!({ "scope": "inventory:write" })));
    let expired = issuer.authorization(&json!({ "exp": 1 }));
    let ok = |body: &str| (200, String::new(), body.to_owned());
    let bad = (401, r#"Bearer error="invalid_token""#.to_owned(), "invalid-token expired".to_owned());
    let lacking = (
        403,
        r#"Bearer error="insufficient_scope", scope="inventory:write""#.to_owned(),
        "insufficient-scope".to_owned(),
    );
    for mode in [None, Some(identity::Mode::Open)] {
        let app = start(AuthArgs { auth: mode, ..issuer.args() }).await;
        let nobody = if mode.is_none() { (401, "Bearer".to_owned(), "about:blank".to_owned()) } else { ok("") };
        for (method, path, authorization, expected) in [
            ("GET", "/anyone", None, &ok("")),
            ("GET", "/anyone", Some(&user), &ok("ada")),
            ("GET", "/anyone", Some(&expired), &bad),
            ("POST", "/stock", None, &nobody),
            ("POST", "/stock", Some(&user), &lacking),
            ("POST", "/stock", Some(&writer), &ok("ada")),
            ("POST", "/stock", Some(&expired), &bad),
            // Which never looks at tokens.
            ("POST", "/login", Some(&expired), &ok("")),
            ("POST", "/login", Some(&user), &ok("")),
        ] {
            let response = send(&app, method, path, authorization.map(String::as_str)).await;
            assert_eq!(&response, expected, "{mode:?} {method} {path}");
        }
    }
}

#[tokio::test]
async fn without_issuers_everything_is_open_but_bad_tokens_are_not() {
    let app = start(AuthArgs::default()).await;
    assert_eq!(send(&app, "POST", "/stock", None).await.0, 200);
    let (status, _, problem) = send(&app, "POST", "/stock", Some(&Issuer::new().authorization(&json!({})))).await;
    assert_eq!((status, problem.as_str()), (401, "invalid-token unknown-issuer"));
    // Credentials of other schemes are the handler's business.
    assert_eq!(send(&app, "POST", "/stock", Some("Basic YTpi")).await.0, 200);
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_503_with_a_token() {
    let issuer = Issuer::new();
    let args = issuer.args();
    fs::remove_file(issuer.directory.path().join("keys.json")).expect("removed");
    let app = start(args).await;
    let token = issuer.authorization(&json!({ "scope": "inventory:write" }));
    assert_eq!(send(&app, "POST", "/stock", Some(&token)).await.0, 503);
    assert_eq!(send(&app, "POST", "/stock", None).await.0, 401);
    assert_eq!(send(&app, "GET", "/anyone", None).await.0, 200);
}

#[tokio::test]
async fn two_authorization_headers_are_400() {
    let issuer = Issuer::new();
    let app = start(issuer.args()).await;
    let token = issuer.authorization(&json!({}));
    let request = app.request(http::Method::GET, "/anyone").header("authorization", &token);
    assert_eq!(app.send(request.header("authorization", &token)).await.status, 400);
}

/// The code of a call.
async fn call(app: &App, path: &str, authorization: Option<&str>) -> String {
    let stream = TcpStream::connect(app.grpc.expect("a gRPC port")).await.expect("a connection");
    let (mut client, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://service{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    let (response, _) = client.send_request(request.body(()).expect("a request"), true).expect("a stream");
    let response = response.await.expect("a response");
    response.headers().get("grpc-status").map_or("none", |code| code.to_str().expect("text")).to_owned()
}

#[tokio::test]
async fn grpc_calls_follow_the_same_rules() {
    let issuer = Issuer::new();
    let (user, writer) =
        (issuer.authorization(&json!({})), issuer.authorization(&json!({ "scope": "inventory:write" })));
    let app = start(issuer.args()).await;
    assert_eq!(call(&app, "/test.Who/Am", Some(&writer)).await, "0");
    assert_eq!(call(&app, "/test.Who/Am", Some(&user)).await, "7", "PERMISSION_DENIED");
    assert_eq!(call(&app, "/test.Who/Am", None).await, "16", "UNAUTHENTICATED");
    assert_eq!(call(&app, "/test.Who/Am", Some("Bearer x")).await, "16", "UNAUTHENTICATED");
    // Probes have no token, and a bad one does not fail them.
    assert_ne!(call(&app, "/grpc.health.v1.Health/Check", Some("Bearer x")).await, "16");
    let open = start(AuthArgs::default()).await;
    assert_eq!(call(&open, "/test.Who/Am", None).await, "0");
    fs::remove_file(issuer.directory.path().join("keys.json")).expect("removed");
    let away = start(issuer.args()).await;
    assert_eq!(call(&away, "/test.Who/Am", Some(&writer)).await, "14", "UNAVAILABLE");
}

#[tokio::test]
async fn the_document_says_which_operations_need_what() {
    let app = start(AuthArgs::default()).await;
    let document: Value = app.get("/openapi.json").await.json(200);
    let scheme = &document["components"]["securitySchemes"]["bearer"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
    let operation = |method: &str, path: &str| document["paths"][path][method].clone();
    let has = |operation: &Value, status: &str| operation["responses"].get(status).is_some();
    let stock = operation("post", "/stock");
    assert_eq!(stock["security"], json!([{ "bearer": ["inventory:write"] }]));
    assert!(has(&stock, "401") && has(&stock, "403"));
    for other in [operation("get", "/anyone"), operation("post", "/login")] {
        assert!(!has(&other, "401") && !has(&other, "403"), "{other}");
    }
}

#[tokio::test]
async fn verified_tokens_are_counted() {
    let issuer = Issuer::new();
    let app = start(issuer.args()).await;
    let token = issuer.authorization(&json!({}));
    for _ in 0..3 {
        assert_eq!(send(&app, "GET", "/anyone", Some(&token)).await.0, 200);
    }
    let metrics = app.admin("/metrics").await.text();
    for line in [
        r#"auth_tokens_verified_total{issuer="https://issuer.example",outcome="accepted"} 1"#,
        r#"auth_tokens_verified_total{issuer="https://issuer.example",outcome="remembered"} 2"#,
        r#"auth_jwks_age_seconds{issuer="https://issuer.example"} "#,
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[tokio::test]
async fn requests_that_wait_for_keys_follow_the_same_rules() {
    let issuer = Issuer::new();
    let (publish, published) = watch::channel(false);
    let keys = key_set([issuer.key.jwk()]).to_string();
    let keys = get(async move || {
        let _ = published.clone().wait_for(|published| *published).await;
        keys.clone()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/keys", keys)).await });
    let issuers = json!([
        { "issuer": "https://issuer.example", "jwks_url": url },
        { "issuer": "https://cluster.example", "jwks_url": url, "kind": "service", "typ": ["at+jwt"] },
    ]);
    let auth = AuthArgs { auth_issuers: Some(issuers.to_string()), ..AuthArgs::default() };
    let database = "postgres://nobody@127.0.0.1:1/none".to_owned();
    let app = App::start_with_args(&SERVICE, database, (), |args| {
        args.auth = auth;
        args.auth_allow_from = "orders".parse().expect("a list");
    })
    .await;

    let service = |name: &str| issuer.authorization(&json!({ "iss": "https://cluster.example", "sub": name }));
    let user = issuer.authorization(&json!({ "scope": "inventory:write" }));
    let send = async |token: String, user: Option<&str>| {
        let request = app.request("POST".parse().expect("a method"), "/stock").header(header::AUTHORIZATION, token);
        let request = user.into_iter().fold(request, |request, user| request.header("hedgerow-on-behalf-of", user));
        let response = app.send(request).await;
        (response.status, response.text())
    };
    let waiting = async || {
        let metrics = app.admin("/metrics").await.text();
        metrics.contains("http_requests_in_flight 5\n").then_some(())
    };
    let (own, refused, admitted, stranger, invalid, ()) = tokio::join!(
        send(user.clone(), None),
        send(issuer.authorization(&json!({ "sub": "eve" })), None),
        send(service("orders"), Some(&user)),
        send(service("billing"), Some(&user)),
        send(service("orders"), Some("Bearer garbage")),
        async {
            eventually("all requests wait", TIMEOUT, waiting).await;
            publish.send_replace(true);
        },
    );
    assert_eq!(own, (200, "ada".to_owned()));
    assert_eq!(admitted, (200, "ada".to_owned()));
    assert_eq!((refused.0, stranger.0, invalid.0), (403, 403, 401));
    let metrics = app.admin("/metrics").await.text();
    for reason in ["insufficient-scope", "not-admitted", "invalid-token"] {
        assert!(metrics.contains(&format!("auth_refusals_total{{reason=\"{reason}\"}} 1\n")), "{metrics}");
    }
}
