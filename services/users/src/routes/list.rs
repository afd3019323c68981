//! `GET /users`.

use axum::extract::{OriginalUri, State};
use chassis::{Limit, Page, Problem, Query};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::{
    access::Reader,
    model::{Email, User},
    state::Users,
    store,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListUsers {
    /// The maximum number of users on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The id of the last user on the previous page.
    after: Option<Uuid>,
    /// Only return the user with this email (case-insensitive).
    #[param(inline)]
    email: Option<Email>,
}

/// List users
///
/// Users are sorted by creation time.
#[utoipa::path(
    get,
    path = "/users",
    operation_id = "listUsers",
    tag = "users",
    security(("bearer" = ["users:read"])),
    params(ListUsers),
    responses((status = OK, description = "A page of users.", body = Vec<User>, headers(
        ("link" = Option<String>, description = "The next page (`rel=\"next\"`), if there is one."),
    ))),
)]
pub(super) async fn list(
    State(users): State<Users>,
    _: Reader,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListUsers>,
) -> Result<Page<User>, Problem> {
    let (limit, email) = (query.limit.with_lookahead(), query.email.as_ref());
    let users = users.database.run(async |connection| store::list(connection, query.after, email, limit).await).await?;
    Page::new(users, query.limit, &uri, |user| user.id.to_string())
}
