//! `GET /inventory/{product_id}/movements`.

use axum::extract::{OriginalUri, State};
use chassis::{Limit, Page, Path, Problem, Query};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    engine::Inventory,
    model::{Movement, ProductId},
    store,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListMovements {
    /// The maximum number of movements on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The number of the last movement on the previous page.
    after: Option<i64>,
}

/// List the movements of a product
///
/// The newest movement comes first.
#[utoipa::path(
    get,
    path = "/inventory/{product_id}/movements",
    operation_id = "listMovements",
    tag = "inventory",
    params(("product_id" = inline(ProductId), Path, description = "The product's id."), ListMovements),
    responses((status = OK, description = "A page of movements.", body = Vec<Movement>, headers(
        ("link" = Option<String>, description = "The next page (`rel=\"next\"`), if there is one."),
    ))),
)]
pub(super) async fn list(
    State(inventory): State<Inventory>,
    OriginalUri(uri): OriginalUri,
    Path(product_id): Path<ProductId>,
    Query(query): Query<ListMovements>,
) -> Result<Page<Movement>, Problem> {
    let before = query.after.unwrap_or(i64::MAX);
    let limit = query.limit.with_lookahead();
    let movements = inventory
        .database()
        .run(async |connection| store::movements(connection, &product_id, before, limit).await)
        .await?;
    Page::new(movements, query.limit, &uri, |movement| movement.version.to_string())
}
