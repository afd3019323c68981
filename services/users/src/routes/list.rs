//! `GET /users`.

use axum::extract::{OriginalUri, State};
use chassis::{Limit, Page, Problem, Query};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::{
    Users,
    model::{Email, User},
    store,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListUsers {
    /// How many users a page has.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The id of the last user of the page before.
    after: Option<Uuid>,
    /// Only the user with this address, in whatever case.
    #[param(inline)]
    email: Option<Email>,
}

/// List users, in order of creation
#[utoipa::path(
    get,
    path = "/users",
    operation_id = "listUsers",
    tag = "users",
    params(ListUsers),
    responses((status = OK, description = "A page of users.", body = Vec<User>, headers(
        ("link" = Option<String>, description = "The next page (`rel=\"next\"`), where one follows."),
    ))),
)]
pub(super) async fn list(
    State(users): State<Users>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListUsers>,
) -> Result<Page<User>, Problem> {
    let (limit, email) = (query.limit.with_lookahead(), query.email.as_ref());
    let users = users.database.run(async |connection| store::list(connection, query.after, email, limit).await).await?;
    Page::new(users, query.limit, &uri, |user| user.id.to_string())
}
