//! `GET /inventory/{product_id}/movements`.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{adjust, ledger, set, start};

fn versions(movements: &[Value]) -> Vec<i64> {
    movements.iter().map(|movement| movement["version"].as_i64().expect("a number")).collect()
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_unknown_product_has_an_empty_ledger(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "other", 1).await.json(201);
    let response = app.get("/inventory/p/movements").await;
    assert_eq!((response.text().as_str(), response.next()), ("[]", None));
    assert_eq!(response.rows(), [json!(null); 0]);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn each_change_is_a_movement_newest_first(pool: PgPool) {
    let app = start(&pool).await;
    set(&app, "p", 10).await.json(201);
    app.patch("/inventory/p", &json!({"delta": -3, "reason": "damaged"})).await.json(200);
    set(&app, "p", 4).await.json(201);
    set(&app, "p", 4).await.json(201);
    let movements = app.get("/inventory/p/movements").await.rows();
    let expected = [
        (4, "set", 0, 4, json!(null)),
        (3, "set", -3, 4, json!(null)),
        (2, "adjust", -3, 7, json!("damaged")),
        (1, "set", 10, 10, json!(null)),
    ];
    assert_eq!(movements.len(), 4);
    for (movement, (version, kind, delta, on_hand, reason)) in movements.iter().zip(expected) {
        let line = json!({
            "product_id": "p", "version": version, "kind": kind, "on_hand_delta": delta, "reserved_delta": 0,
            "on_hand": on_hand, "reserved": 0, "reason": reason, "reservation_id": null, "holds": null, "expired_until": null,
            "at": movement["at"],
        });
        assert_eq!(*movement, line);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn times_are_rfc_3339_in_utc_and_ascending(pool: PgPool) {
    let app = start(&pool).await;
    for _ in 0..5 {
        adjust(&app, "p", 1).await.json(200);
    }
    let mut before = DateTime::<Utc>::MIN_UTC;
    for movement in ledger(&app, "p").await {
        let text = movement["at"].as_str().expect("a string");
        let at: DateTime<Utc> = text.parse().expect("RFC 3339");
        assert!(text.ends_with('Z') && (Utc::now() - at).num_minutes().abs() < 5, "{text} is close to now");
        assert!(at >= before);
        before = at;
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_ledger_is_paged(pool: PgPool) {
    let app = start(&pool).await;
    for number in 0..6 {
        set(&app, "p%20q", number).await.json(201);
        set(&app, "other", number).await.json(201);
    }
    for (limit, pages) in [(1, 6), (2, 3), (4, 2), (6, 1), (200, 1)] {
        let walked = app.walk(&format!("/inventory/p%20q/movements?limit={limit}")).await;
        assert_eq!((walked.len(), versions(&walked.concat())), (pages, vec![6, 5, 4, 3, 2, 1]), "limit {limit}");
    }
    let link = app.get("/inventory/p%20q/movements?limit=2").await.next().expect("a row follows");
    assert_eq!(link, "/inventory/p%20q/movements?limit=2&after=5");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn after_accepts_any_number(pool: PgPool) {
    let app = start(&pool).await;
    for number in 0..3 {
        set(&app, "p", number).await.json(201);
    }
    let cases =
        [("0", vec![]), ("1", vec![]), ("2", vec![1]), ("99", vec![3, 2, 1]), ("9223372036854775807", vec![3, 2, 1])];
    for (after, expected) in cases {
        let response = app.get(&format!("/inventory/p/movements?after={after}")).await;
        assert_eq!(versions(&response.rows()), expected, "{after}");
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn paging_returns_each_movement_once_during_changes(pool: PgPool) {
    let app = start(&pool).await;
    for number in 0..30 {
        set(&app, "p", number).await.json(201);
    }
    let mut walked = Vec::new();
    let mut next = Some("/inventory/p/movements?limit=3".to_owned());
    while let Some(path) = next {
        let (page, change) = tokio::join!(app.get(&path), adjust(&app, "p", 1));
        assert_eq!(change.status, 200);
        walked.extend(page.rows());
        next = page.next();
    }
    let newest = walked[0]["version"].as_i64().expect("a number");
    assert_eq!(versions(&walked), (1..=newest).rev().collect::<Vec<_>>());
    assert!(newest >= 30);
}
