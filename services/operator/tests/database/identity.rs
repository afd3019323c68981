//! The server tells which one it is.

use operator::database::{AdminSession, Warning};

use crate::{ensure, postgres::Postgres, spec};

#[tokio::test]
async fn any_admin_can_read_the_system_identifier() {
    let postgres = Postgres::start().await;
    let expected = postgres.list("SELECT system_identifier::text FROM pg_control_system()").await.remove(0);
    for server in [postgres.server(), postgres.with_superuser()] {
        let admin = AdminSession::open(&server, "inventory").await.unwrap();
        assert_eq!(admin.system_identifier(), Some(&*expected));
    }
    let another = Postgres::start().await;
    let another = another.server();
    let another = AdminSession::open(&another, "inventory").await.unwrap();
    assert_ne!(another.system_identifier(), Some(&*expected));
}

#[tokio::test]
async fn an_unreadable_system_identifier_is_a_warning() {
    let postgres = Postgres::start().await;
    postgres.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC").await;
    let server = postgres.server();
    let report = ensure(&server, &spec("inventory")).await;
    assert!(report.warnings.contains(&Warning::UnknownServer), "{:?}", report.warnings);
    assert_eq!(AdminSession::open(&server, "inventory").await.unwrap().system_identifier(), None);
}

#[tokio::test]
async fn checking_writes_nothing() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    let mut admin = AdminSession::open(&server, "inventory").await.unwrap();
    admin.check(&spec("inventory")).await.unwrap();
    assert!(postgres.holds("NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'inventory')").await);
}
