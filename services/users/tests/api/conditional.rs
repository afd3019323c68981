//! `If-Match` and `If-None-Match` on `/users/{id}` (RFC 9110, section 13).

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use test_support::app::{App, Response, join_all};

use crate::{create, path, start};

async fn patch_if(app: &App, path: &str, if_match: &str, name: &str) -> Response {
    let request = app.request(Method::PATCH, path).header("if-match", if_match).json(&json!({"name": name}));
    app.send(request).await
}

async fn delete_if(app: &App, path: &str, if_match: &str) -> Response {
    app.send(app.request(Method::DELETE, path).header("if-match", if_match)).await
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_current_etag_allows_one_change(pool: PgPool) {
    let app = start(&pool).await;
    let path = path(&create(&app, "Ada", "ada@example.com").await);
    let etag = app.get(&path).await.etag();
    let changed = patch_if(&app, &path, &etag, "First").await;
    assert_eq!(changed.json(200)["name"], "First");
    patch_if(&app, &path, &etag, "Second").await.problem(412);
    delete_if(&app, &path, &etag).await.problem(412);
    assert_eq!(app.get(&path).await.json(200), changed.json(200));
    assert_eq!(delete_if(&app, &path, &changed.etag()).await.status, 204);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_star_or_a_list_with_the_current_etag_allows_a_change(pool: PgPool) {
    let app = start(&pool).await;
    let path = path(&create(&app, "Ada", "ada@example.com").await);
    let etag = app.get(&path).await.etag();
    let listed = patch_if(&app, &path, &format!("\"x\", \"999\" , {etag}"), "Listed").await;
    assert_eq!(listed.json(200)["name"], "Listed");
    let request = app.request(Method::PATCH, &path).header("if-match", "\"x\"").header("if-match", listed.etag());
    assert_eq!(app.send(request.json(&json!({"name": "Two lines"}))).await.json(200)["name"], "Two lines");
    assert_eq!(patch_if(&app, &path, "*", "Starred").await.json(200)["name"], "Starred");
    assert_eq!(delete_if(&app, &path, "*").await.status, 204);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn stale_and_weak_etags_allow_no_change(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let etag = app.get(&path(&ada)).await.etag();
    let weak = format!("W/{etag}");
    for tag in [weak.as_str(), "", ",", "\"999\"", "\"-1\"", "\"99999999999999999999\"", "\"x\",W/\"y\""] {
        patch_if(&app, &path(&ada), tag, "Eve").await.problem(412);
        delete_if(&app, &path(&ada), tag).await.problem(412);
    }
    let found = app.get(&path(&ada)).await;
    assert_eq!((found.json(200), found.etag()), (ada, etag));
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn malformed_conditions_are_400(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let etag = app.get(&path(&ada)).await.etag();
    for tags in ["\"x\", *", &format!("{etag}, *"), etag.trim_matches('"'), "\"", "x"] {
        patch_if(&app, &path(&ada), tags, "Eve").await.problem(400);
        delete_if(&app, &path(&ada), tags).await.problem(400);
        app.send(app.request(Method::GET, &path(&ada)).header("if-match", tags)).await.problem(400);
    }
    assert_eq!(app.get(&path(&ada)).await.json(200), ada);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn if_none_match_is_304_or_refuses_the_change(pool: PgPool) {
    let app = start(&pool).await;
    let ada = create(&app, "Ada", "ada@example.com").await;
    let etag = app.get(&path(&ada)).await.etag();
    let send = async |method: Method, tags: &str| {
        app.send(app.request(method, &path(&ada)).header("if-none-match", tags).json(&json!({"name": "Eve"}))).await
    };
    for tags in ["*", &etag, &format!("\"x\", W/{etag}")] {
        let unchanged = send(Method::GET, tags).await;
        assert_eq!((unchanged.status, unchanged.etag()), (304, etag.clone()));
        send(Method::PATCH, tags).await.problem(412);
        send(Method::DELETE, tags).await.problem(412);
    }
    assert_eq!(send(Method::GET, "\"x\"").await.json(200), ada);
    assert_eq!(send(Method::PATCH, "\"x\"").await.json(200)["name"], "Eve");
    assert_eq!(send(Method::DELETE, &etag).await.status, 204);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_unknown_user_is_404_whatever_the_condition(pool: PgPool) {
    let app = start(&pool).await;
    let unknown = "/users/0190d9a4-1f5e-7c3a-8a5e-0123456789ab";
    patch_if(&app, unknown, "\"1\"", "Eve").await.problem(404);
    delete_if(&app, unknown, "\"1\"").await.problem(404);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn exactly_one_of_concurrent_patches_with_one_etag_wins(pool: PgPool) {
    let (app, other) = (start(&pool).await, start(&pool).await);
    let path = path(&create(&app, "Ada", "ada@example.com").await);
    for round in 0..5 {
        let etag = app.get(&path).await.etag();
        let responses = join_all((0..12).map(|rival| {
            let (app, path, etag) = (if rival % 2 == 0 { &app } else { &other }, &path, &etag);
            async move { patch_if(app, path, etag, &format!("Rival {rival} of round {round}")).await }
        }));
        let responses = responses.await;
        let (won, lost): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
        assert_eq!(won.len(), 1, "round {round}");
        for response in lost {
            response.problem(412);
        }
        assert_eq!(app.get(&path).await.json(200), won[0].json(200));
    }
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn concurrent_patches_without_a_condition_all_apply(pool: PgPool) {
    let app = start(&pool).await;
    let path = path(&create(&app, "Ada", "ada@example.com").await);
    let responses = join_all((0..12).map(|rival| {
        let (app, path) = (&app, &path);
        async move { app.patch(path, &json!({"name": format!("Rival {rival}")})).await }
    }));
    let mut tags: Vec<_> = responses.await.iter().map(|response| (response.json(200), response.etag()).1).collect();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 12, "each response has its own ETag");
}
