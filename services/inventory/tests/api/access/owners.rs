//! Reservations belong to whoever made them.

use identity::Mode;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::App;

use super::issuer::{ISSUERS, Issuer, NOBODY, Token, reserve, send, send_with, stock_up};
use crate::{audit, counters};

async fn status(app: &App, token: &Token, path: &str) -> u16 {
    send(app, token, "GET", path, None).await.status
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_owner_is_stored_whichever_statement_inserts_it(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Open).await;
    for product in ["a", "b"] {
        stock_up(&app, &issuer, product).await;
    }
    let ada = issuer.user("ada");
    for (token, subject) in [(&ada, format!("{} ada", ISSUERS[0])), (&NOBODY, String::new())] {
        // One item is reserved by a single statement, two are in a transaction.
        for products in [&["a"][..], &["a", "b"][..]] {
            let path = reserve(&app, token, products).await;
            let query = "SELECT subject FROM reservation WHERE id::text = $1";
            let id = path.rsplit('/').next().expect("an id");
            let stored: String = sqlx::query_scalar(query).bind(id).fetch_one(&pool).await.expect("a row");
            assert_eq!(stored, subject);
            let shown = send(&app, token, "GET", &path, None).await.json(200);
            let names: Vec<_> = shown.as_object().expect("an object").keys().collect();
            assert_eq!(names, ["expires_at", "id", "items", "state"]);
        }
    }
    audit(&pool).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn reservations_without_owner_are_for_admins_and_mode_open(pool: PgPool) {
    let issuer = Issuer::new();
    let (open, required) = (issuer.start(&pool, Mode::Open).await, issuer.start(&pool, Mode::Required).await);
    stock_up(&open, &issuer, "a").await;
    let (of_nobody, of_ada) =
        (reserve(&open, &NOBODY, &["a"]).await, reserve(&open, &issuer.user("ada"), &["a"]).await);
    for (app, without_token) in [(&open, 200), (&required, 401)] {
        assert_eq!(status(app, &issuer.user("ada"), &of_nobody).await, 404);
        assert_eq!(status(app, &issuer.admin(), &of_nobody).await, 200);
        for path in [&of_nobody, &of_ada] {
            assert_eq!(status(app, &NOBODY, path).await, without_token);
        }
        assert_eq!(status(app, &issuer.user("ada"), &of_ada).await, 200);
    }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_same_subject_of_another_issuer_is_somebody_else(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Required).await;
    stock_up(&app, &issuer, "a").await;
    let path = reserve(&app, &issuer.user("ada"), &["a"]).await;
    let elsewhere = issuer.token("ada", &json!({"iss": ISSUERS[1], "roles": ["user"]}));
    assert_eq!(status(&app, &elsewhere, &path).await, 404);
    send(&app, &elsewhere, "POST", &format!("{path}/commit"), None).await.problem(404);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_reservation_of_another_looks_like_an_unknown_one(pool: PgPool) {
    let issuer = Issuer::new();
    let app = issuer.start(&pool, Mode::Required).await;
    stock_up(&app, &issuer, "a").await;
    let (ada, bob) = (issuer.user("ada"), issuer.user("bob"));
    let path = reserve(&app, &ada, &["a"]).await;
    let unknown = "/reservations/0190d9a4-1f5e-7c3a-8a5e-0123456789ab";
    let problems = async |path: &str| {
        let mut problems: Vec<Value> = Vec::new();
        for (method, end) in [("GET", ""), ("POST", "/commit"), ("POST", "/release")] {
            // Whatever the preconditions.
            for header in [&[][..], &[("if-match", "\"7\"")][..], &[("if-none-match", "*")][..]] {
                let path = format!("{path}{end}");
                problems.push(send_with(&app, &bob, method, &path, None, header).await.problem(404));
            }
        }
        problems
    };
    assert_eq!(problems(&path).await, problems(unknown).await);
    // Neither does one that is due.
    let past = "UPDATE reservation SET expires_at = date_trunc('second', now()) - interval '3 s'";
    let due = "UPDATE expiry SET expires_at = date_trunc('second', now()) - interval '3 s'";
    let next = "UPDATE stock SET next_expiry = date_trunc('second', now()) - interval '3 s'";
    for statement in [past, due, next] {
        sqlx::query(statement).execute(&pool).await.expect("updated");
    }
    assert_eq!(problems(&path).await, problems(unknown).await);
    assert_eq!(send(&app, &ada, "GET", &path, None).await.json(200)["state"], "expired");
    assert_eq!(counters(&app, "a").await, (1000, 1000, 0));
}
