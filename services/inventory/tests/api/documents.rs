//! `/openapi.json` and `/docs`.

use sqlx::PgPool;
use test_support::rules;

use crate::start;

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_document_describes_every_operation(pool: PgPool) {
    let expected = [
        "get /inventory listStock",
        "get /inventory/{product_id} getStock",
        "get /inventory/{product_id}/movements listMovements",
        "get /reservations/{id} getReservation",
        "patch /inventory/{product_id} adjustStock",
        "post /inventory/{product_id} setStock",
        "put /inventory/{product_id} putStock",
        "post /reservations createReservation",
        "post /reservations/{id}/commit commitReservation",
        "post /reservations/{id}/release releaseReservation",
    ];
    assert_eq!(rules::operations(&start(&pool).await, "inventory").await, expected.map(str::to_owned).into());
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn all_references_in_the_document_resolve(pool: PgPool) {
    rules::references_resolve(&start(&pool).await).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn every_post_and_patch_takes_a_key(pool: PgPool) {
    rules::every_post_and_patch_takes_a_key(&start(&pool).await).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_docs_page_and_its_assets_load(pool: PgPool) {
    rules::docs_page_loads(&start(&pool).await).await;
}
