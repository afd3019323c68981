//! `/openapi.json` and `/docs`.

use sqlx::PgPool;
use test_support::rules;

use crate::start;

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_document_describes_every_operation(pool: PgPool) {
    let expected = [
        "delete /users/{id} deleteUser",
        "delete /users/{id}/wishlist/{product_id} removeFromWishlist",
        "get /users listUsers",
        "get /users/{id} getUser",
        "get /users/{id}/wishlist getWishlist",
        "patch /users/{id} patchUser",
        "post /users createUser",
        "put /users/{id}/wishlist/{product_id} addToWishlist",
    ];
    assert_eq!(rules::operations(&start(&pool).await, "users").await, expected.map(str::to_owned).into());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn all_references_in_the_document_resolve(pool: PgPool) {
    rules::references_resolve(&start(&pool).await).await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn every_post_and_patch_takes_a_key(pool: PgPool) {
    rules::every_post_and_patch_takes_a_key(&start(&pool).await).await;
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn the_docs_page_and_its_assets_load(pool: PgPool) {
    rules::docs_page_loads(&start(&pool).await).await;
}
