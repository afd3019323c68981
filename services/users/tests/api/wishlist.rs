//! Wishlists while inventory is unavailable: it is not started here. See `tests/peers` for the rest.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::app::{App, Response, join_all};

use crate::{create, path, start};

async fn put(app: &App, user: &Value, product: &str) -> Response {
    app.send(app.request(Method::PUT, &format!("{}/wishlist/{product}", path(user)))).await
}

async fn remove(app: &App, user: &Value, product: &str) -> Response {
    app.delete(&format!("{}/wishlist/{product}", path(user))).await
}

/// The products on a wishlist, none of which has a known stock.
async fn products(app: &App, user: &Value) -> Vec<String> {
    let wishlist = app.get(&format!("{}/wishlist", path(user))).await.json(200);
    let items = wishlist["items"].as_array().expect("items");
    assert_eq!(wishlist["degraded"], !items.is_empty(), "an empty wishlist needs no call: {wishlist}");
    assert!(items.iter().all(|item| item["stock"] == json!(null) && item["added_at"].is_string()), "{wishlist}");
    items.iter().map(|item| item["product_id"].as_str().expect("an id").to_owned()).collect()
}

async fn with_wishlist(app: &App, wishlist: Value) -> Response {
    app.post("/users", &json!({"name": "Ada", "email": "ada@example.com", "wishlist": wishlist})).await
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn adding_and_removing_products_is_idempotent(pool: PgPool) {
    let app = start(&pool).await;
    let (ada, bob) = (create(&app, "Ada", "ada@example.com").await, create(&app, "Bob", "bob@example.com").await);
    assert_eq!(products(&app, &ada).await, [""; 0]);
    for product in ["b", "a", "b", "%2525 %C3%A9"] {
        let response = put(&app, &ada, product).await;
        assert_eq!((response.status, response.text().as_str()), (204, ""));
    }
    assert_eq!(products(&app, &ada).await, ["b", "a", "%25 é"], "in the order they were added");
    assert_eq!(products(&app, &bob).await, [""; 0]);
    for _ in 0..2 {
        let response = remove(&app, &ada, "b").await;
        assert_eq!((response.status, response.text().as_str()), (204, ""));
    }
    assert_eq!(products(&app, &ada).await, ["a", "%25 é"]);
    assert_eq!(app.get(&path(&ada)).await.json(200), ada, "the wishlist is not part of the user");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_new_user_may_have_a_wishlist(pool: PgPool) {
    let app = start(&pool).await;
    let response = with_wishlist(&app, json!(["b", "a", "b"])).await;
    let mut user = response.json(201);
    let wishlist = user.as_object_mut().expect("an object").remove("wishlist").expect("a wishlist");
    assert_eq!(app.get(&path(&user)).await.json(200), user);
    assert_eq!(app.get(&format!("{}/wishlist", path(&user))).await.json(200), wishlist);
    assert_eq!(products(&app, &user).await, ["a", "b"]);
    assert_eq!(wishlist["items"][0]["added_at"], user["created_at"]);

    with_wishlist(&app, json!(["c"])).await.problem(409);
    assert_eq!(products(&app, &user).await, ["a", "b"], "a refused duplicate adds nothing");
    let empty = app.post("/users", &json!({"name": "Bob", "email": "bob@example.com", "wishlist": []})).await.json(201);
    assert_eq!(empty["wishlist"], json!({"items": [], "degraded": false}));
    assert!(create(&app, "Eve", "eve@example.com").await.get("wishlist").is_none());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn users_created_in_one_batch_have_their_own_wishlists(pool: PgPool) {
    let app = start(&pool).await;
    let new = |number: usize| json!({"name": "Ada", "email": format!("a{number}@example.com"), "wishlist": [number.to_string()]});
    let users = join_all((0..32).map(|number| {
        let (app, new) = (&app, new(number));
        async move { app.post("/users", &new).await.json(201) }
    }))
    .await;
    for (number, user) in users.iter().enumerate() {
        assert_eq!(products(&app, user).await, [number.to_string()]);
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_invalid_wishlist_is_422_with_a_pointer(pool: PgPool) {
    let app = start(&pool).await;
    let many: Vec<_> = (0..201).map(|number| number.to_string()).collect();
    for (wishlist, pointer) in [
        (json!(["a", "b/c"]), "#/wishlist/1"),
        (json!([""]), "#/wishlist/0"),
        (json!([1]), "#/wishlist/0"),
        (json!(["a".repeat(129)]), "#/wishlist/0"),
        (json!("a"), "#/wishlist"),
        (json!({}), "#/wishlist"),
        (json!(null), "#/wishlist"),
        (json!(many), "#/wishlist"),
    ] {
        assert_eq!(with_wishlist(&app, wishlist.clone()).await.errors(), [pointer], "{wishlist}");
    }
    assert_eq!(crate::count(&pool).await, 0);
    let user = create(&app, "Ada", "ada@example.com").await;
    for product in ["%2F", "%00", "%C2%85", &"a".repeat(129)] {
        assert_eq!(put(&app, &user, product).await.errors(), ["product_id"], "{product}");
        assert_eq!(remove(&app, &user, product).await.errors(), ["product_id"], "{product}");
    }
    let patch = app.patch(&path(&user), &json!({"wishlist": []})).await;
    assert_eq!(patch.errors(), ["#/wishlist"]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn concurrent_additions_never_exceed_200_products(pool: PgPool) {
    let app = start(&pool).await;
    let wishlist: Vec<_> = (0..195).map(|number| format!("p{number:03}")).collect();
    let user = with_wishlist(&app, json!(wishlist)).await.json(201);
    let new: Vec<_> = (0..12).map(|number| format!("q{number}")).collect();
    let responses = join_all(new.iter().map(|product| put(&app, &user, product))).await;
    let (added, full): (Vec<_>, Vec<_>) = responses.into_iter().partition(|response| response.status == 204);
    assert_eq!((added.len(), full.len()), (5, 7));
    assert!(full.iter().all(|response| response.problem(409)["type"] == "https://hedgerow.dev/problems/wishlist-full"));
    assert_eq!(products(&app, &user).await.len(), 200);
    assert_eq!(put(&app, &user, "p000").await.status, 204, "it is on the wishlist already");
    assert_eq!(remove(&app, &user, "p000").await.status, 204);
    assert_eq!(put(&app, &user, "new").await.status, 204);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unknown_user_has_no_wishlist(pool: PgPool) {
    let app = start(&pool).await;
    for id in ["0190d9a4-1f5e-7c3a-8a5e-0123456789ab", "1"] {
        let user = json!({"id": id});
        app.get(&format!("/users/{id}/wishlist")).await.problem(404);
        put(&app, &user, "a").await.problem(404);
        remove(&app, &user, "a").await.problem(404);
    }
    let user = with_wishlist(&app, json!(["a"])).await.json(201);
    assert_eq!(app.delete(&path(&user)).await.status, 204);
    app.get(&format!("{}/wishlist", path(&user))).await.problem(404);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM wishlist").fetch_one(&pool).await.expect("a count");
    assert_eq!(left, 0);
}
