//! `POST /users`, and a user's life cycle.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;
use test_support::{
    app::join_all,
    process::{TIMEOUT, eventually},
};
use uuid::Uuid;

use crate::{create, id, path, start};

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_new_user_has_a_location_an_etag_and_all_fields(pool: PgPool) {
    let app = start(&pool).await;
    let response = app.post("/users", &json!({"name": "Ada", "email": "Ada@Example.com"})).await;
    let user = response.json(201);
    let mut fields: Vec<_> = user.as_object().expect("an object").keys().collect();
    fields.sort();
    assert_eq!(fields, ["created_at", "email", "id", "name", "updated_at"]);
    assert_eq!((&user["name"], &user["email"]), (&json!("Ada"), &json!("Ada@Example.com")));
    assert_eq!(response.header("location"), Some(path(&user).as_str()));

    let found = app.get(&path(&user)).await;
    assert_eq!(found.json(200), user);
    assert_eq!(found.etag(), response.etag());
    assert!(response.etag().starts_with('"'), "a strong tag: {}", response.etag());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn times_are_rfc_3339_in_utc(pool: PgPool) {
    let app = start(&pool).await;
    let user = create(&app, "Ada", "ada@example.com").await;
    for field in ["created_at", "updated_at"] {
        let text = user[field].as_str().expect("a text");
        let time: DateTime<Utc> = text.parse().expect("RFC 3339");
        assert!(text.ends_with('Z'), "{text}");
        assert!((Utc::now() - time).num_minutes().abs() < 5, "{text} is close to now");
    }
    assert_eq!(user["created_at"], user["updated_at"]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn ids_are_version_7_uuids_in_order_of_creation(pool: PgPool) {
    let app = start(&pool).await;
    let mut before = Uuid::nil();
    for number in 0..20 {
        let user = create(&app, "Ada", &format!("ada{number}@example.com")).await;
        let uuid: Uuid = id(&user).parse().expect("a UUID");
        assert_eq!(uuid.get_version_num(), 7);
        assert_eq!(uuid.to_string(), id(&user), "in lower case, with hyphens");
        assert!(uuid > before, "{uuid} comes after {before}");
        before = uuid;
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn names_and_emails_are_stored_as_given(pool: PgPool) {
    let app = start(&pool).await;
    let longest = "é".repeat(200);
    for (number, name) in ["李", " Ada ", "A\nB", "O'Neil \"the\" <b>\\", "👩‍💻", "A", &longest].into_iter().enumerate()
    {
        let user = create(&app, name, &format!("u{number}@example.com")).await;
        assert_eq!(user["name"], name);
        assert_eq!(app.get(&path(&user)).await.json(200)["name"], name);
    }
    let longest = format!("{}@{}.com", "a".repeat(63), ["b"; 93].join("."));
    assert_eq!(longest.len(), 253);
    for email in ["A.b+c@X.Example", "o'neil@a-b.example", &longest, &format!("a{longest}")] {
        assert_eq!(create(&app, "Ada", email).await["email"], *email);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_user_is_created_read_listed_updated_and_deleted(pool: PgPool) {
    let app = start(&pool).await;
    assert_eq!(app.get("/users").await.rows(), [json!(null); 0]);

    let ada = create(&app, "Ada", "ada@example.com").await;
    let bob = create(&app, "Bob", "bob@example.com").await;
    assert_eq!(app.get(&path(&bob)).await.json(200), bob);
    assert_eq!(app.get("/users").await.rows(), [ada.clone(), bob.clone()]);

    let changed = app.patch(&path(&ada), &json!({"name": "Ada Lovelace"})).await.json(200);
    assert_eq!((&changed["id"], &changed["name"]), (&ada["id"], &json!("Ada Lovelace")));
    assert_eq!(app.get("/users").await.rows(), [changed.clone(), bob.clone()]);

    let gone = app.delete(&path(&bob)).await;
    assert_eq!((gone.status, gone.text().as_str()), (204, ""));
    app.get(&path(&bob)).await.problem(404);
    app.delete(&path(&bob)).await.problem(404);
    assert_eq!(app.get("/users").await.rows(), [changed]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn long_wishlists_share_no_large_statement(pool: PgPool) {
    let limit = "CREATE FUNCTION limit_rows() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF (SELECT count(*) FROM added) > 2000 THEN RAISE 'too many'; END IF; RETURN NULL; END $$;
         CREATE TRIGGER limit_rows AFTER INSERT ON wishlist REFERENCING NEW TABLE AS added
             EXECUTE FUNCTION limit_rows()";
    sqlx::raw_sql(limit).execute(&pool).await.expect("a trigger");
    let app = start(&pool).await;
    let products: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let mut lock = pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE users IN SHARE MODE").execute(&mut *lock).await.expect("locked");
    let creations = join_all((0..24).map(|number| {
        let body = json!({"name": "Ada", "email": format!("{number}@example.com"), "wishlist": products});
        let app = &app;
        async move { app.post("/users", &body).await }
    }));
    let open = async {
        eventually("all requests are in flight", TIMEOUT, async || {
            app.admin("/metrics").await.text().contains("\nhttp_requests_in_flight 24\n").then_some(())
        })
        .await;
        lock.rollback().await.expect("unlocked");
    };
    let (created, ()) = tokio::join!(creations, open);
    for (number, response) in created.iter().enumerate() {
        let user = response.json(201);
        assert_eq!(user["email"], format!("{number}@example.com"), "in order");
        assert_eq!(user["wishlist"]["items"].as_array().map(Vec::len), Some(200));
    }
}
