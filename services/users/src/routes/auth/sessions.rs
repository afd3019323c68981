//! `GET /auth/sessions`, `DELETE /auth/sessions/{id}`.

use axum::extract::{OriginalUri, State};
use chassis::{Limit, Page, Path, Problem, Query};
use chrono::{DateTime, Utc};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    access::{Myself, actor},
    client_address::Origin,
    error::Error,
    model::UserId,
    state::Users,
    store::session,
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::routes) struct ListSessions {
    /// The maximum number of sessions on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The id of the last session on the previous page.
    after: Option<Uuid>,
}

/// A session of the caller.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct Session {
    id: Uuid,
    /// When the user logged in.
    created_at: DateTime<Utc>,
    /// When it was last refreshed.
    used_at: DateTime<Utc>,
    /// The address from which it was last used, if it is known.
    address: Option<String>,
    /// The `User-Agent` that last used it.
    agent: String,
    /// Whether the request belongs to it.
    is_current: bool,
}

/// List the sessions of the caller
#[utoipa::path(
    get,
    path = "/auth/sessions",
    operation_id = "listSessions",
    tag = "auth",
    security(("bearer" = [])),
    params(ListSessions),
    responses(
        (status = OK, description = "A page of sessions that have not ended.", body = Vec<Session>, headers(
            ("link" = Option<String>, description = "The next page (`rel=\"next\"`), if there is one."),
        )),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
    ),
)]
pub(in crate::routes) async fn list(
    State(users): State<Users>,
    me: Myself,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListSessions>,
) -> Result<Page<Session>, Problem> {
    let limit = query.limit.with_lookahead();
    let work = async |connection: &mut sqlx::PgConnection| session::list(connection, me.id, query.after, limit).await;
    let sessions = users.database.run(work).await?;
    let sessions = sessions.into_iter().map(|row| Session {
        id: row.id,
        created_at: row.created_at,
        used_at: row.used_at,
        address: row.address,
        agent: row.agent,
        is_current: row.id == me.session,
    });
    Page::new(sessions.collect(), query.limit, &uri, |session| session.id.to_string())
}

/// End a session of the caller
///
/// Its refresh token is refused from now on. Access tokens of the session may be accepted until they expire.
#[utoipa::path(
    delete,
    path = "/auth/sessions/{id}",
    operation_id = "endSession",
    tag = "auth",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The session's id.")),
    responses(
        (status = NO_CONTENT, description = "The session has ended."),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
        (status = NOT_FOUND, description = "The caller has no such session."),
    ),
)]
pub(in crate::routes) async fn end(
    State(users): State<Users>,
    me: Myself,
    origin: Origin,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    let issuer = users.issuer()?;
    let UserId(id) = id.parse().map_err(|_| Error::NoSession)?;
    let ended = users.database.change(async |connection| session::end(connection, id, Some(me.id)).await).await;
    ended.map_err(Error::from_write)?.ok_or(Error::NoSession)?;
    issuer.audit.change("session_ended", &actor(&me.identity), id, &origin);
    Ok(StatusCode::NO_CONTENT)
}
