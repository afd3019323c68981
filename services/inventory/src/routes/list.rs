//! `GET /inventory`.

use axum::extract::{OriginalUri, State};
use chassis::{Limit, Page, Problem, Query};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    engine::Inventory,
    model::{ProductId, Stock},
    store,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListStock {
    /// The maximum number of products on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The last product id on the previous page.
    #[param(inline)]
    after: Option<ProductId>,
}

/// List stock
///
/// Products are sorted by id.
#[utoipa::path(
    get,
    path = "/inventory",
    operation_id = "listStock",
    tag = "inventory",
    params(ListStock),
    responses((status = OK, description = "A page of products.", body = Vec<Stock>, headers(
        ("link" = Option<String>, description = "The next page (`rel=\"next\"`), if there is one."),
    ))),
)]
pub(super) async fn list(
    State(inventory): State<Inventory>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListStock>,
) -> Result<Page<Stock>, Problem> {
    let after = query.after.as_ref().map_or("", ProductId::as_str);
    let limit = query.limit.with_lookahead();
    let stock = inventory.database().run(async |connection| store::list(connection, after, limit).await).await?;
    Page::new(stock, query.limit, &uri, |stock| stock.product_id.as_str().to_owned())
}
