//! The database step, with a real Postgres.

mod hanging;
mod ownership;
mod queued;
mod silent;

use std::time::{Duration, Instant};

use embedded_postgres::{Server, Settings};
use futures_util::{StreamExt, future};
use http::Method;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use test_support::{
    port::Port,
    process::{TIMEOUT, eventually},
};

use super::{super::watches, DEPLOYMENT, Fixture, OBJECT, condition};
use crate::manifests::{self, RenderInputs};
use api::Microservice;

const ADMIN: &str = "/api/v1/namespaces/default/secrets/hedgerow-postgres";
const CREDENTIALS: &str = "/api/v1/namespaces/default/secrets/orders-database";

fn spec(image: &str) -> Value {
    json!({ "image": format!("localhost/orders:{image}"), "database": {}, "scaling": { "min": 2, "max": 2 } })
}

fn encoded(text: &str) -> Value {
    serde_json::to_value(ByteString(text.as_bytes().to_vec())).expect("base64")
}

fn decoded(value: &Value) -> String {
    let ByteString(bytes) = serde_json::from_value(value.clone()).expect("base64");
    String::from_utf8(bytes).expect("text")
}

fn admin_secret(url: &str, adopt: &str) -> Value {
    let data = json!({ "url": encoded(url), "adopt": encoded(adopt) });
    json!({ "metadata": { "name": "hedgerow-postgres" }, "data": data })
}

fn postgres() -> Server {
    Server::temporary(&Settings::for_tests()).expect("a server")
}

/// The texts in the first column.
async fn list(server: &Server, sql: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(&server.superuser_url("postgres")).await.expect("a connection");
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.expect("rows");
    connection.close().await.expect("it closes");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn run(server: &Server, sql: &str) {
    let mut connection = PgConnection::connect(&server.superuser_url("postgres")).await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect("it succeeds");
}

async fn identifier(server: &Server) -> String {
    list(server, "SELECT system_identifier::text FROM pg_control_system()").await.remove(0)
}

/// What there is of the database, and the password.
async fn state(server: &Server) -> Vec<String> {
    let sql =
        "SELECT rolname || rolpassword || coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_authid WHERE rolname = 'orders'
               UNION ALL SELECT datname::text FROM pg_database WHERE datname = 'orders'";
    list(server, sql).await
}

impl Fixture {
    /// An object with a database on this server.
    fn with_server(server: &Server) -> Self {
        let fixture = Self::new(spec("1"));
        fixture.serve(server, "");
        fixture
    }

    fn serve(&self, server: &Server, adopt: &str) {
        self.server.put(ADMIN, admin_secret(&server.superuser_url("postgres"), adopt));
        self.context.databases.forget("the-uid");
    }

    fn annotate(&self, key: &str, value: &str) {
        let mut object = self.server.get(OBJECT).expect("the object");
        object["metadata"]["annotations"][key] = value.into();
        self.server.put(OBJECT, object);
    }

    /// Completes the Job of the current migration.
    fn complete_migration(&self) {
        let object: Microservice =
            serde_json::from_value(self.server.get(OBJECT).expect("the object")).expect("a Microservice");
        let job = manifests::render(&object, &RenderInputs::default()).migration.expect("a Job").name_any();
        let path = format!("/apis/batch/v1/namespaces/default/jobs/{job}");
        let mut job = self.server.get(&path).expect("the Job was started");
        job["status"] = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        self.server.put(&path, job);
    }

    /// Reconciles until the object is ready.
    async fn roll_out(&mut self) {
        self.reconcile().await;
        self.complete_migration();
        self.reconcile().await;
        self.deployed(2);
        let status = self.reconcile().await;
        assert_eq!(condition(&status, "Ready")["status"], "True", "{status:#}");
    }

    /// Reconciles until a condition has this status and reason: a login may take longer than a reconcile waits. Returns
    /// the message.
    async fn until(&mut self, kind: &str, expected: (&str, &str)) -> String {
        let begin = Instant::now();
        loop {
            let status = self.reconcile().await;
            let found = condition(&status, kind);
            if found["status"] == expected.0 && found["reason"] == expected.1 {
                return found["message"].as_str().unwrap_or_default().to_owned();
            }
            assert!(begin.elapsed() < TIMEOUT, "{kind} is not {expected:?}: {status:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Verifies the database again. Returns the Secrets that were read, by path.
    async fn resync(&mut self) -> Vec<String> {
        self.context.databases.forget("the-uid");
        drop(self.server.take_requests());
        let status = self.reconcile().await;
        assert_condition(&status, "Ready", ("True", "Ready"));
        let requests = self.server.take_requests().into_iter();
        let reads = requests.filter(|(method, path)| method == Method::GET && path.contains("/secrets/"));
        reads.map(|(_, path)| path).collect()
    }

    /// Verifies the database again until all Secrets that are read are these.
    async fn resync_until(&mut self, expected: &[&str]) {
        let begin = Instant::now();
        loop {
            let reads = self.resync().await;
            if reads == expected {
                return;
            }
            assert!(begin.elapsed() < TIMEOUT, "{reads:?} were read, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn image(&self) -> Value {
        self.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    }
}

/// Asserts the status and the reason of a condition, and returns its message.
#[track_caller]
fn assert_condition(status: &Value, kind: &str, expected: (&str, &str)) -> String {
    let found = condition(status, kind);
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    assert_eq!((text("status"), text("reason")), expected, "{kind}: {status:#}");
    text("message").to_owned()
}

#[tokio::test]
async fn a_new_url_is_found_although_the_watch_is_silent() {
    let postgres = postgres();
    let mut fixture = Fixture::new(spec("1"));
    let closed = Port::free();
    fixture.server.put(ADMIN, admin_secret(&format!("postgres://admin:x@{}/postgres", closed.address), ""));
    let secret: Secret = serde_json::from_value(fixture.server.get(ADMIN).expect("a Secret")).expect("a Secret");
    fixture.context.secrets.known.report(&secret.metadata);
    assert_condition(&fixture.reconcile().await, "DatabaseReady", ("False", "ServerUnreachable"));

    fixture.serve(&postgres, "");
    fixture.until("DatabaseReady", ("True", "DatabaseReady")).await;
}

/// The keys are those of `CloudNativePG` 1.27. The superuser is for every database (`*`).
#[tokio::test]
async fn the_superuser_secret_of_cloudnativepg_works() {
    let postgres = postgres();
    let mut fixture = Fixture::new(spec("1"));
    let uri = postgres.superuser_url("*").replace("%2A", "*");
    assert!(uri.contains("5432/*"), "{uri}");
    let data = json!({
        "username": encoded("postgres"), "user": encoded("postgres"), "password": encoded("x"), "dbname": encoded("*"),
        "host": encoded("postgres"), "port": encoded("5432"), "pgpass": encoded("postgres:5432:*:postgres:x\n"),
        "uri": encoded(&uri), "jdbc-uri": encoded("jdbc:postgresql://postgres.default:5432/*?password=x&user=postgres"),
        "fqdn-uri": encoded("postgresql://postgres:x@postgres.default.svc.cluster.local:5432/*"),
        "fqdn-jdbc-uri": encoded("jdbc:postgresql://postgres.default.svc.cluster.local:5432/*?password=x"),
    });
    let secret =
        json!({ "metadata": { "name": "hedgerow-postgres" }, "type": "kubernetes.io/basic-auth", "data": data });
    fixture.server.put(ADMIN, secret);
    fixture.roll_out().await;
    assert_eq!(state(&postgres).await.len(), 2);
}

/// The first reconcile fails, and its status names the database.
#[tokio::test]
async fn only_a_lost_secret_is_renewed() {
    let postgres = postgres();
    let mut fixture = Fixture::new(spec("1"));
    fixture.reconcile().await;
    fixture.serve(&postgres, "");
    fixture.roll_out().await;
    let renewed = |fixture: &Fixture| {
        let events = fixture.server.list("/apis/events.k8s.io/v1/namespaces/default/events");
        assert!(!events.is_empty());
        events.iter().any(|event| event["reason"] == "SecretRenewed")
    };
    assert!(!renewed(&fixture), "the Secret is new");
    fixture.server.delete(CREDENTIALS);
    fixture.context.databases.forget("the-uid");
    fixture.reconcile().await;
    assert!(renewed(&fixture));
}

#[tokio::test]
async fn a_secret_is_read_again_only_if_it_has_changed() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let watch = tokio::spawn(watches::secrets(&fixture.context).for_each(|_| future::ready(())));
    fixture.resync_until(&[]).await;
    for _ in 0..3 {
        assert_eq!(fixture.resync().await, [""; 0]);
    }

    fixture.serve(&postgres, "users=default/users");
    fixture.resync_until(&[ADMIN]).await;
    fixture.resync_until(&[]).await;
    let mut edited = fixture.server.get(CREDENTIALS).expect("a Secret");
    edited["metadata"]["annotations"]["example.com/note"] = "theirs".into();
    fixture.server.put(CREDENTIALS, edited);
    fixture.resync_until(&[CREDENTIALS]).await;
    fixture.resync_until(&[]).await;
    watch.abort();
}

#[tokio::test]
async fn admin_trouble_does_not_block_a_rollback() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let pods = fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["template"]["metadata"].clone();

    fixture.server.delete(ADMIN);
    fixture.apply(spec("2"), 2);
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("False", "ServerSecretMissing"));
    assert_condition(&status, "Migrated", ("False", "Migrating"));
    assert_eq!(fixture.image(), "localhost/orders:1", "the migration comes first");
    fixture.complete_migration();
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("False", "ServerSecretMissing"));
    assert_condition(&status, "Ready", ("False", "ServerSecretMissing"));
    assert_eq!(fixture.image(), "localhost/orders:2");
    let credentials = "/annotations/hedgerow.dev~1credentials";
    let now = &fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["template"]["metadata"];
    assert!(pods.pointer(credentials).is_some());
    assert_eq!(now.pointer(credentials), pods.pointer(credentials), "the pods have the same password");

    // An admin who cannot log in is the same.
    let url = postgres.url("nobody", "x", "postgres");
    fixture.server.put(ADMIN, admin_secret(&url, ""));
    fixture.context.databases.forget("the-uid");
    fixture.apply(spec("1"), 3);
    fixture.until("DatabaseReady", ("False", "WrongPassword")).await;
    fixture.complete_migration();
    fixture.reconcile().await;
    assert_eq!(fixture.image(), "localhost/orders:1");
}

#[tokio::test]
async fn a_leak_of_connections_does_not_block_its_fix() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    let leaky = |image: &str| {
        let mut spec = spec(image);
        spec["database"] = json!({ "connectionLimit": 3 });
        spec
    };
    fixture.apply(leaky("1"), 1);
    fixture.roll_out().await;
    let password = decoded(&fixture.server.get(CREDENTIALS).expect("a Secret")["data"]["password"]);
    let connect = async || PgConnection::connect(&postgres.url("orders", &password, "orders")).await.ok();
    let mut open = Vec::new();
    // The operator's own sessions may take a moment to end.
    while open.len() < 3 {
        open.push(eventually("a free connection", TIMEOUT, &connect).await);
    }
    fixture.context.databases.forget("the-uid");
    fixture.apply(leaky("2"), 2);
    let status = fixture.reconcile().await;
    let message = assert_condition(&status, "DatabaseReady", ("True", "DatabaseReady"));
    assert!(message.contains("all connections of the role are in use"), "{message}");
    assert_condition(&status, "Migrated", ("False", "Migrating"));
    drop(eventually("there is room for the migration", TIMEOUT, &connect).await);
    fixture.complete_migration();
    fixture.reconcile().await;
    assert_eq!(fixture.image(), "localhost/orders:2");
}
