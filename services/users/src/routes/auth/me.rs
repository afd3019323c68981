//! `GET /auth/me`.

use chassis::Identity;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{error::Error, issuer::NO_STORE};

/// The caller, as the token says.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct Me {
    iss: String,
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    sid: Option<Uuid>,
    scopes: Vec<String>,
    roles: Vec<String>,
}

/// Get the caller
#[utoipa::path(
    get,
    path = "/auth/me",
    operation_id = "getMe",
    tag = "auth",
    security(("bearer" = [])),
    responses(
        (status = OK, description = "The caller, as the token says.", body = Me),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
    ),
)]
pub(in crate::routes) async fn me(
    identity: Identity,
) -> Result<([(http::HeaderName, http::HeaderValue); 1], axum::Json<Me>), Error> {
    let caller = identity.require_caller()?;
    let me = Me {
        iss: caller.issuer().to_owned(),
        sub: caller.subject().to_owned(),
        client_id: caller.client().map(str::to_owned),
        sid: caller.session(),
        scopes: caller.scopes().iter().map(str::to_owned).collect(),
        roles: caller.roles().map(str::to_owned).collect(),
    };
    Ok((NO_STORE, axum::Json(me)))
}
