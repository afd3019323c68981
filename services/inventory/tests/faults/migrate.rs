//! `migrate`, and whether its exit status asks for a retry.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgPool, migrate::Migrator, raw_sql};
use test_support::process::{Finished, Program, TIMEOUT, eventually};

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

/// Applies the migrations up to this version.
async fn migrate_to(pool: &PgPool, version: i64) {
    let first = inventory::MIGRATIONS.iter().filter(|migration| migration.version <= version).cloned().collect();
    Migrator::with_migrations(first).run(pool).await.expect("the first versions");
}

#[sqlx::test(migrations = false)]
async fn the_first_schema_is_migrated_for_reservations(pool: PgPool) {
    migrate_to(&pool, 1).await;
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

    let reservation = "INSERT INTO reservation (id, state, expires_at, product_ids, quantities)
                       VALUES (gen_random_uuid(), $1, $2, $3, $4)";
    let reserve = async |state, expires_at: Option<DateTime<Utc>>, quantities: Option<Vec<i64>>| {
        let reserve = sqlx::query(reservation).bind(state).bind(expires_at).bind(quantities.is_some().then_some(["p"]));
        reserve.bind(quantities).execute(&pool).await.is_ok()
    };
    let now = Some(Utc::now());
    assert!(reserve("void", None, None).await && reserve("held", now, Some(vec![(1 << 53) - 1])).await);
    assert!(!reserve("held", None, Some(vec![1])).await && !reserve("committed", now, None).await);
    for quantities in [vec![], vec![0], vec![1 << 53], vec![1, 1]] {
        assert!(!reserve("held", now, Some(quantities.clone())).await, "{quantities:?}");
    }
}

/// What was reserved with a row for each item: a reservation in each state that it could be in.
const LINES: &str = "
    INSERT INTO stock (product_id, on_hand, reserved, version, next_expiry)
    VALUES ('a', 100, 31, 10, '2026-01-01 10:00:00.5Z'), ('b', 100, 4, 2, '2026-01-01 10:00:00.5Z'), ('c', 1, 0, 1, NULL);
    INSERT INTO reservation (id, state, expires_at) VALUES
        ('00000000-0000-0000-0000-000000000001', 'held', '2099-01-01 10:00:00.5Z'),
        ('00000000-0000-0000-0000-000000000002', 'held', '2099-01-01 10:00:01Z'),
        ('00000000-0000-0000-0000-000000000003', 'committed', '2026-01-01 10:00:00.5Z'),
        ('00000000-0000-0000-0000-000000000004', 'released', '2026-01-01 10:00:00.5Z'),
        ('00000000-0000-0000-0000-000000000005', 'expired', '2026-01-01 10:00:00.5Z'),
        -- Overdue, and not settled.
        ('00000000-0000-0000-0000-000000000006', 'held', '2026-01-01 10:00:00.5Z'),
        -- Settled in part: of its second product, or of its first.
        ('00000000-0000-0000-0000-000000000007', 'held', '2026-01-01 10:00:00.5Z'),
        ('00000000-0000-0000-0000-000000000008', 'expired', '2026-01-01 10:00:00.5Z'),
        ('00000000-0000-0000-0000-000000000009', 'void', NULL);
    INSERT INTO reservation_line (reservation_id, product_id, quantity, expires_at, live)
    SELECT ('00000000-0000-0000-0000-00000000000' || number)::uuid, product_id, quantity, expires_at, live
    FROM (VALUES (1, 'b', 4, true), (1, 'a', 1, true), (2, 'a', 2, true), (3, 'a', 4, false), (4, 'a', 4, false),
                 (5, 'a', 4, false), (6, 'a', 8, true), (7, 'a', 20, true), (7, 'b', 5, false), (8, 'a', 6, false),
                 (8, 'c', 7, true)) AS line (number, product_id, quantity, live)
    JOIN reservation ON id = ('00000000-0000-0000-0000-00000000000' || number)::uuid;
    UPDATE stock SET on_hand = 8, reserved = 7, next_expiry = '2026-01-01 10:00:00.5Z' WHERE product_id = 'c'";

#[sqlx::test(migrations = false)]
async fn lines_are_migrated_to_sums_of_expiries(pool: PgPool) {
    migrate_to(&pool, 3).await;
    raw_sql(LINES).execute(&pool).await.expect("rows");
    assert_eq!(version(&migrate(&pool).run().await), newest());

    let texts =
        async |query: &'static str| -> Vec<String> { sqlx::query_scalar(query).fetch_all(&pool).await.expect("texts") };
    let reservations =
        "SELECT concat_ws(' ', right(id::text, 1), state, to_char(expires_at AT TIME ZONE 'UTC', 'YYYY SS.MS'),
                                         product_ids, quantities) FROM reservation ORDER BY id";
    let expected = [
        // It ends with a full second, later than before.
        "1 held 2099 01.000 {a,b} {1,4}",
        "2 held 2099 01.000 {a} {2}",
        "3 committed 2026 00.500 {a} {4}",
        "4 released 2026 00.500 {a} {4}",
        // It ended already, and must not be held again.
        "5 held 2026 00.000 {a} {4}",
        "6 held 2026 01.000 {a} {8}",
        "7 held 2026 00.000 {a,b} {20,5}",
        "8 held 2026 00.000 {a,c} {6,7}",
        "9 void",
    ];
    assert_eq!(texts(reservations).await, expected);
    let expiries =
        "SELECT concat_ws(' ', product_id, to_char(expires_at AT TIME ZONE 'UTC', 'YYYY SS.MS'), quantity, holds)
                    FROM expiry ORDER BY product_id, expires_at";
    let expected =
        ["a 2026 00.000 20 1", "a 2026 01.000 8 1", "a 2099 01.000 3 2", "b 2099 01.000 4 1", "c 2026 00.000 7 1"];
    assert_eq!(texts(expiries).await, expected);
    let stock = "SELECT concat_ws(' ', product_id, reserved, to_char(next_expiry AT TIME ZONE 'UTC', 'YYYY SS.MS'))
                 FROM stock ORDER BY product_id";
    assert_eq!(texts(stock).await, ["a 31 2026 00.000", "b 4 2099 01.000", "c 7 2026 00.000"]);

    // The service settles what had expired, and agrees on the state of each reservation.
    let service = crate::service::serve(&program(&url(&pool))).await;
    let client = crate::service::client();
    for (number, state) in
        (1..9).zip(["held", "held", "committed", "released", "expired", "expired", "expired", "expired"])
    {
        let path = format!("/reservations/00000000-0000-0000-0000-00000000000{number}");
        for _ in 0..2 {
            let read = client.get(service.url(&path)).send().await.expect("a response");
            let body: Value = read.json().await.expect("JSON");
            assert_eq!(body["state"], state, "{number}");
        }
    }
    let counters = "SELECT concat_ws(' ', product_id, reserved, version) FROM stock ORDER BY product_id";
    eventually("expired holds are settled", TIMEOUT, async || {
        (texts(counters).await == ["a 3 12", "b 4 2", "c 0 2"]).then_some(())
    })
    .await;
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
