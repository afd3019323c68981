//! Each reason why a server cannot be used has its own error.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use embedded_postgres::Settings;
use operator::database::{Error, Server, Warning};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sqlx::{Connection, PgConnection};
use test_support::{
    port::Port,
    process::{TIMEOUT, eventually},
};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use crate::{
    PASSWORD, changes, ensure,
    postgres::{ADMIN_PASSWORD, Postgres},
    proxy::Proxy,
    spec,
};

async fn refusal(url: &str) -> Error {
    Server::new(url, None).unwrap().ensure(&spec("inventory")).await.unwrap_err()
}

#[tokio::test]
async fn a_refused_connection_is_reported() {
    let nobody = Port::free();
    let port = nobody.address.port();
    let error = refusal(&format!("postgres://admin:x@127.0.0.1:{port}/postgres")).await;
    assert!(matches!(error, Error::Unreachable { .. }));
    let text = format!("cannot reach the database server 127.0.0.1:{port}: Connection refused");
    assert!(error.to_string().starts_with(&text), "{error}");
}

#[tokio::test]
async fn an_unknown_host_is_reported() {
    let error = refusal("postgres://admin:x@nowhere.invalid/postgres").await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, begin) = (listener.local_addr().unwrap().port(), Instant::now());
    let error = refusal(&format!("postgres://admin:x@127.0.0.1:{port}/postgres")).await;
    assert!(begin.elapsed() < Duration::from_secs(8));
    assert!(error.to_string().ends_with(": no response within 5 s"), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_after_the_login_is_reported() {
    let postgres = Postgres::shared().await;
    let mut other = PgConnection::connect(&postgres.process.superuser_url("postgres")).await.unwrap();
    let lock = sqlx::raw_sql("BEGIN; LOCK TABLE pg_shdescription IN ACCESS EXCLUSIVE MODE");
    lock.execute(&mut other).await.unwrap();
    let error = postgres.server().probe().await.unwrap_err();
    assert!(matches!(error, Error::Unresponsive { .. }), "{error}");
    other.close().await.unwrap();
    postgres.server().probe().await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_reported() {
    let postgres = Postgres::shared().await;
    let error = refusal(&postgres.process.url("admin", "a guess", "postgres")).await;
    assert!(matches!(&error, Error::WrongPassword { role, .. } if role == "admin"));
    let text = r#"rejected the password of "admin": password authentication failed for user "admin""#;
    assert!(error.to_string().ends_with(text), "{error}");
}

#[tokio::test]
async fn a_rejected_login_is_reported() {
    let postgres = Postgres::shared().await;
    postgres.sql("ALTER ROLE admin NOLOGIN").await;
    let error = postgres.server().ensure(&spec("inventory")).await.unwrap_err();
    assert!(matches!(error, Error::Login { .. }));
    assert!(
        error.to_string().ends_with(r#"rejected the login of "admin": role "admin" is not permitted to log in"#),
        "{error}"
    );
}

#[tokio::test]
async fn an_unknown_database_is_reported() {
    let postgres = Postgres::shared().await;
    let error = refusal(&postgres.process.url("admin", ADMIN_PASSWORD, "nowhere")).await;
    assert_eq!(error.to_string(), r#"cannot log in: database "nowhere" does not exist"#);
}

#[tokio::test]
async fn exhausted_connections_are_reported() {
    let postgres = Postgres::start_with(&Settings { max_connections: 10, ..Settings::for_tests() }).await;
    ensure(&postgres.server(), &spec("inventory")).await;
    let mut open = Vec::new();
    // Closed sessions may take a moment to end, so keep taking what becomes free.
    let error = eventually("no connection is left", TIMEOUT, async || {
        while let Ok(connection) = postgres.open("inventory", PASSWORD, "inventory").await {
            open.push(connection);
        }
        postgres.server().ensure(&spec("inventory")).await.err()
    })
    .await;
    assert!(matches!(error, Error::TooManyConnections { .. }), "{error}");
}

#[tokio::test]
async fn a_service_may_use_all_its_connections() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    let mut open = Vec::new();
    // The session in which `ensure` verified the password may take a moment to end.
    eventually("all twenty are open", TIMEOUT, async || {
        while let Ok(connection) = postgres.open("inventory", PASSWORD, "inventory").await {
            open.push(connection);
        }
        (open.len() >= 20).then_some(())
    })
    .await;
    assert_eq!(open.len(), 20);
    let report = ensure(&postgres.server(), &spec("inventory")).await;
    assert_eq!(report.changes, [""; 0]);
    assert!(report.warnings.contains(&Warning::Exhausted), "{:?}", report.warnings);
    assert_eq!(report.schema_version, None);
}

#[tokio::test]
async fn a_server_without_required_tls_is_reported() {
    let postgres = Postgres::shared().await;
    let proxy = Proxy::start(&postgres).await;
    let error = refusal(&proxy.url("admin", ADMIN_PASSWORD, "postgres", "require")).await;
    assert!(matches!(error, Error::Tls { .. }));
    assert!(error.to_string().ends_with("server does not support TLS"), "{error}");
}

#[tokio::test]
async fn only_certificates_of_the_ca_in_the_secret_are_trusted() {
    let postgres = Postgres::shared().await;
    let (ca, other_ca) = (authority(), authority());
    let proxy = Proxy::start_with(&postgres, Some(acceptor(&ca, "localhost"))).await;
    let url = |mode| proxy.url("admin", ADMIN_PASSWORD, "postgres", mode);
    let server = |mode, ca: &Authority| Server::new(&url(mode), Some(ca.pem().as_bytes())).unwrap();

    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        ensure(&server(mode, &ca), &spec("inventory")).await;
        let error = server(mode, &other_ca).ensure(&spec("inventory")).await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{mode}: {error}");
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    }
    // Without a CA, `require` encrypts without verification.
    assert_eq!(changes(&Server::new(&url("require"), None).unwrap(), &spec("inventory")).await, [""; 0]);
}

#[tokio::test]
async fn a_certificate_of_another_host_is_not_trusted() {
    let postgres = Postgres::shared().await;
    let ca = authority();
    let proxy = Proxy::start_with(&postgres, Some(acceptor(&ca, "another.host"))).await;
    let server =
        |mode| Server::new(&proxy.url("admin", ADMIN_PASSWORD, "postgres", mode), Some(ca.pem().as_bytes())).unwrap();
    let error = server("prefer").ensure(&spec("inventory")).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
    ensure(&server("verify-ca"), &spec("inventory")).await;
}

/// The URL of the superuser in the Secret of `CloudNativePG` is for every database.
#[tokio::test]
async fn an_admin_url_for_every_database_is_accepted() {
    let postgres = Postgres::shared().await;
    let url = postgres.process.url("admin", ADMIN_PASSWORD, "*");
    assert!(url.contains("%2A"), "{url}");
    for url in [url.replace("%2A", "*"), url] {
        ensure(&Server::new(&url, None).unwrap(), &spec("inventory")).await;
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn acceptor(ca: &Authority, host: &str) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}
