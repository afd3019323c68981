//! `GET /users`: order, paging and the email filter.

use std::{collections::HashMap, slice};

use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::App;

use crate::{create, id, path, start};

/// Creates this many users; returns them in order of creation.
async fn create_many(app: &App, count: usize) -> Vec<Value> {
    let mut users = Vec::new();
    for number in 0..count {
        users.push(create(app, "Ada", &format!("ada{number}@example.com")).await);
    }
    users
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn users_are_sorted_by_id_and_paged(pool: PgPool) {
    let app = start(&pool).await;
    let users = create_many(&app, 6).await;
    for (limit, pages) in [(1, 6), (2, 3), (4, 2), (5, 2), (6, 1), (7, 1), (200, 1)] {
        let walked = app.walk(&format!("/users?limit={limit}")).await;
        assert_eq!(walked.len(), pages, "limit {limit}");
        assert_eq!(walked.concat(), users, "limit {limit}");
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_page_has_50_rows_by_default_and_at_most_200(pool: PgPool) {
    let app = start(&pool).await;
    let insert = "INSERT INTO users (id, name, email)
                  SELECT gen_random_uuid(), 'Ada', 'ada' || n || '@example.com' FROM generate_series(1, 251) AS n";
    sqlx::query(insert).execute(&pool).await.expect("inserted");
    let sizes = async |path: &str| app.walk(path).await.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes("/users").await, [50, 50, 50, 50, 50, 1]);
    assert_eq!(sizes("/users?limit=200").await, [200, 51]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn after_accepts_the_uuid_of_an_unknown_user(pool: PgPool) {
    let app = start(&pool).await;
    let users = create_many(&app, 3).await;
    let after = async |id: &str| app.get(&format!("/users?after={id}")).await.rows();
    assert_eq!(after("00000000-0000-0000-0000-000000000000").await, users);
    assert_eq!(after(id(&users[0])).await, users[1..]);
    assert_eq!(after(id(&users[2])).await, users[3..]);
    assert_eq!(after("ffffffff-ffff-ffff-ffff-ffffffffffff").await, users[3..]);
    assert_eq!(app.delete(&path(&users[1])).await.status, 204);
    assert_eq!(after(id(&users[1])).await, users[2..]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_next_link_keeps_the_limit(pool: PgPool) {
    let app = start(&pool).await;
    let users = create_many(&app, 3).await;
    let link = app.get("/users?limit=1&after=00000000-0000-0000-0000-000000000000").await.next();
    let link = link.expect("a row follows");
    assert_eq!(link, format!("/users?limit=1&after={}", id(&users[0])));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_email_filter_ignores_case_and_matches_literally(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "Ada_L%x@Example.com").await;
    create(&app, "Bob", "AdaZL%xx@Example.com").await;
    let filter = async |email: &str| app.get(&format!("/users?email={email}")).await.rows();
    for email in ["Ada_L%25x@Example.com", "ada_l%25x%40example.com", "ADA_L%25X@EXAMPLE.COM"] {
        assert_eq!(filter(email).await, slice::from_ref(&ada), "{email}");
    }
    assert_eq!(filter("nobody@example.com").await, [json!(null); 0]);
    let paged = app.get("/users?limit=1&email=ada_l%25x%40example.com").await;
    assert_eq!((paged.rows(), paged.next()), (vec![ada.clone()], None));
    let after = app.get(&format!("/users?email=ada_l%25x%40example.com&after={}", id(&ada))).await;
    assert_eq!(after.rows(), [json!(null); 0]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn paging_returns_each_user_once_during_changes(pool: PgPool) {
    let app = start(&pool).await;
    let users = create_many(&app, 40).await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut next = Some("/users?limit=3".to_owned());
    for number in 0.. {
        let Some(page) = next else { break };
        let others = async {
            create(&app, "Eve", &format!("eve{number}@example.com")).await;
            let gone = create(&app, "Bob", &format!("bob{number}@example.com")).await;
            app.delete(&path(&gone)).await
        };
        let (page, deleted) = tokio::join!(app.get(&page), others);
        assert_eq!(deleted.status, 204);
        for user in page.rows() {
            *seen.entry(id(&user).to_owned()).or_default() += 1;
        }
        // Delete the row that the next page starts after.
        if let Some(user) = page.rows().last() {
            app.delete(&path(user)).await;
        }
        next = page.next();
    }
    for user in &users {
        assert_eq!(seen.get(id(user)), Some(&1), "{user}");
    }
    assert!(seen.values().all(|times| *times == 1));
}
