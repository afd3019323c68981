//! `migrate`, and whether its exit status asks for a retry.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgPool, migrate::Migrator, raw_sql};
use test_support::process::{Finished, Program};

use crate::service::{program, url};

/// sysexits.h: `EX_TEMPFAIL`.
const RETRYABLE: i32 = 75;

fn newest() -> i64 {
    inventory::MIGRATIONS.iter().map(|migration| migration.version).max().expect("a migration")
}

fn migrate(pool: &PgPool) -> Program {
    program(&url(pool)).argument("migrate")
}

/// Asserts that it succeeded; returns the schema version it logs.
fn version(end: &Finished) -> i64 {
    assert_eq!(end.code(), Some(0), "{}{}", end.stdout, end.stderr);
    let line = end.log().into_iter().find(|line| line["message"] == "schema up to date").expect("a line");
    line["version"].as_i64().expect("a number")
}

fn error(end: &Finished) -> Value {
    let line = end.log().into_iter().find(|line| line["level"] == "ERROR").expect("a line");
    assert_eq!(end.stderr, "", "the error is reported once");
    line
}

#[sqlx::test(migrations = false)]
async fn a_second_migrate_changes_nothing(pool: PgPool) {
    assert_eq!(version(&migrate(&pool).run().await), newest());
    let done = "SELECT array_agg((version, installed_on)::text ORDER BY version) FROM _sqlx_migrations";
    let first: Vec<String> = sqlx::query_scalar(done).fetch_one(&pool).await.expect("the migrations");
    assert_eq!(version(&migrate(&pool).run().await), newest());
    assert_eq!(sqlx::query_scalar::<_, Vec<String>>(done).fetch_one(&pool).await.expect("the migrations"), first);
}

#[sqlx::test(migrations = false)]
async fn concurrent_migrates_all_succeed(pool: PgPool) {
    let migrate = migrate(&pool);
    let ends = tokio::join!(migrate.run(), migrate.run(), migrate.run(), migrate.run());
    for end in <[Finished; 4]>::from(ends) {
        assert_eq!(version(&end), newest());
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_newer_schema_is_not_changed(pool: PgPool) {
    raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', true, '', 0)",
    )
    .execute(&pool)
    .await
    .expect("a newer version");
    assert_eq!(version(&migrate(&pool).run().await), 9999);
}

#[sqlx::test(migrations = false)]
async fn the_first_schema_is_migrated_for_reservations(pool: PgPool) {
    let first = inventory::MIGRATIONS.iter().filter(|migration| migration.version == 1).cloned().collect();
    Migrator::with_migrations(first).run(&pool).await.expect("the first version");
    let add = async |product| {
        sqlx::query("INSERT INTO stock (product_id) VALUES ($1)").bind(product).execute(&pool).await.expect("added");
    };
    add("before").await;
    assert_eq!(version(&migrate(&pool).run().await), newest());
    // Replicas of the first version still run.
    add("after").await;
    let expiries = "SELECT array_agg(next_expiry) FROM stock";
    let expiries: Vec<Option<DateTime<Utc>>> = sqlx::query_scalar(expiries).fetch_one(&pool).await.expect("times");
    assert_eq!(expiries, [None, None]);

    let reservation = "INSERT INTO reservation (id, state, expires_at) VALUES (gen_random_uuid(), $1, $2)";
    let line = "INSERT INTO reservation_line (reservation_id, product_id, quantity, expires_at)
                VALUES (gen_random_uuid(), 'p', $1, now())";
    let reserve = async |state, expires_at: Option<DateTime<Utc>>| {
        sqlx::query(reservation).bind(state).bind(expires_at).execute(&pool).await.is_ok()
    };
    let add_line = async |quantity: i64| sqlx::query(line).bind(quantity).execute(&pool).await.is_ok();
    assert!(reserve("void", None).await && reserve("held", Some(Utc::now())).await);
    assert!(!reserve("held", None).await && !reserve("committed", None).await);
    assert!(add_line((1 << 53) - 1).await && !add_line(1 << 53).await);
}

#[tokio::test]
async fn an_unreachable_database_is_retryable() {
    // Nothing listens on port 1, the folder has no socket, and the name does not exist (RFC 6761).
    for host in ["127.0.0.1:1", "%2Fnowhere", "nowhere.invalid"] {
        let end = program(&format!("postgres://inventory:secret@{host}/inventory")).argument("migrate").run().await;
        assert_eq!(end.code(), Some(RETRYABLE), "{host}: {}{}", end.stdout, end.stderr);
        assert_eq!(error(&end)["retryable"], true);
        assert!(!end.stdout.contains("secret"));
    }
}

#[sqlx::test(migrations = false)]
async fn an_sql_error_is_not_retryable_and_names_its_file(pool: PgPool) {
    raw_sql("CREATE TABLE stock (other text)").execute(&pool).await.expect("a conflicting table");
    let end = migrate(&pool).run().await;
    assert_eq!(end.code(), Some(1), "{}{}", end.stdout, end.stderr);
    let message = error(&end)["message"].as_str().expect("text").to_owned();
    assert!(message.starts_with("0001_stock.sql: ") && message.contains("\"stock\" already exists"), "{message}");
    // Once the table is gone, it succeeds: the failed migration left nothing behind.
    raw_sql("DROP TABLE stock").execute(&pool).await.expect("dropped");
    assert_eq!(version(&migrate(&pool).run().await), newest());
}
