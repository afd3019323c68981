//! `GET /auth/revoked`.

use axum::extract::State;
use chassis::{Problem, Query};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    access::ServiceCaller,
    error::Error,
    issuer::NO_STORE,
    state::Users,
    store::revoked::{self, Cursor},
};

/// The maximum number of sessions in a response.
const LIMIT: i64 = 10_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::routes) struct ListRevoked {
    /// The cursor of an earlier response. An unknown one is ignored.
    after: Option<String>,
}

/// Sessions that were ended.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct Revoked {
    /// Their ids, the `sid` of their tokens. Some may be in more than one response.
    sessions: Vec<Uuid>,
    /// Where to go on. If the response has no sessions, there are no more yet.
    cursor: String,
}

/// List the sessions that were ended within the last hour
///
/// For services such as the gateway, which refuses their access tokens until these expire, and for administrators.
#[utoipa::path(
    get,
    path = "/auth/revoked",
    operation_id = "listRevokedSessions",
    tag = "auth",
    security(("bearer" = [])),
    params(ListRevoked),
    responses(
        (status = OK, description = "Up to 10,000 sessions.", body = Revoked),
        (status = FORBIDDEN, description = "The caller is neither a service nor an administrator."),
        (status = NOT_FOUND, description = "This service issues no tokens."),
    ),
)]
pub(in crate::routes) async fn list(
    State(users): State<Users>,
    _: ServiceCaller,
    Query(query): Query<ListRevoked>,
) -> Result<([(http::HeaderName, http::HeaderValue); 1], axum::Json<Revoked>), Problem> {
    let cursor = query.after.as_deref().and_then(parse);
    let found = users.database.run(async |connection| revoked::list(connection, cursor, LIMIT).await).await;
    let (sessions, cursor) = found.map_err(Error::from)?;
    Ok((NO_STORE, axum::Json(Revoked { sessions, cursor: write(cursor) })))
}

fn write(Cursor { began, last }: Cursor) -> String {
    last.map_or_else(|| began.to_string(), |(transaction, id)| format!("{began}_{transaction}_{id}"))
}

fn parse(text: &str) -> Option<Cursor> {
    let mut parts = text.split('_');
    let began = parts.next()?.parse().ok()?;
    let last = match (parts.next(), parts.next(), parts.next()) {
        (None, None, None) => None,
        (Some(transaction), Some(id), None) => Some((transaction.parse().ok()?, id.parse().ok()?)),
        _ => return None,
    };
    Some(Cursor { began, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        for cursor in
            [Cursor { began: 7, last: None }, Cursor { began: u64::MAX, last: Some((u64::MAX, Uuid::now_v7())) }]
        {
            let text = write(cursor);
            assert_eq!(parse(&text), Some(cursor));
            assert!(
                text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
        }
        for bad in ["", "x", "1_2", "1_2_3", "-1", "1_2_00000000-0000-0000-0000-000000000000_3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
