//! `POST` and `GET /auth/clients`, `DELETE /auth/clients/{id}`.

use std::fmt;

use aws_lc_rs::rand;
use axum::{
    extract::{OriginalUri, State},
    response::IntoResponse,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chassis::{Fields, FromFields, Json, Limit, Page, Path, Problem, Query};
use chrono::{DateTime, Utc};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    access::{Administrator, actor},
    client_address::Origin,
    error::Error,
    issuer::{NO_STORE, new_id},
    model::{Name, Scope, UserId},
    state::Users,
    store::client::{self, ClientRow},
};

/// What secrets start with, so that scanners for leaked secrets recognize them.
const PREFIX: &str = "hcs_";

/// The maximum number of scopes of a client.
const MAX_SCOPES: usize = 50;

/// A new client.
#[derive(ToSchema)]
pub(in crate::routes) struct NewClient {
    name: Name,
    /// What the client may do.
    #[schema(max_items = 50)]
    scopes: Vec<Scope>,
}

impl FromFields for NewClient {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name");
        let scopes = fields.required::<Vec<Scope>>("scopes");
        if scopes.as_ref().is_some_and(|scopes| scopes.len() > MAX_SCOPES) {
            fields.refuse("scopes", "must contain at most 50 items");
            return None;
        }
        Some(Self { name: name?, scopes: scopes? })
    }
}

/// A machine that gets tokens with client credentials.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct Client {
    #[serde(rename = "client_id")]
    id: Uuid,
    name: String,
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
}

/// A new client with its secret, which is shown only once.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct CreatedClient {
    #[serde(flatten)]
    client: Client,
    client_secret: String,
}

impl fmt::Debug for CreatedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedClient").field("client_id", &self.client.id).finish_non_exhaustive()
    }
}

impl From<ClientRow> for Client {
    fn from(ClientRow { id, name, scopes, created_at }: ClientRow) -> Self {
        Self { id, name, scopes, created_at }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::routes) struct ListClients {
    /// The maximum number of clients on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The id of the last client on the previous page.
    after: Option<Uuid>,
}

/// Create a client
///
/// Its secret is shown only once. The client exchanges it for access tokens at `/oauth2/token`.
#[utoipa::path(
    post,
    path = "/auth/clients",
    operation_id = "createClient",
    tag = "auth",
    security(("bearer" = [])),
    request_body = NewClient,
    responses(
        (status = CREATED, description = "The new client.", body = CreatedClient),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
        (status = FORBIDDEN, description = "The caller is not an administrator."),
    ),
)]
pub(in crate::routes) async fn create(
    State(users): State<Users>,
    Administrator(identity): Administrator,
    origin: Origin,
    Json(new): Json<NewClient>,
) -> Result<impl IntoResponse, Error> {
    let issuer = users.issuer()?;
    let mut random = [0; 32];
    rand::fill(&mut random).map_err(|_| Error::NoRandomness)?;
    let secret = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    let (id, hash) = (new_id(), Sha256::digest(&secret));
    let mut scopes: Vec<&str> = new.scopes.iter().map(Scope::as_str).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let work = async |connection: &mut sqlx::PgConnection| {
        client::insert(connection, id, new.name.as_str(), &hash, &scopes).await
    };
    let row = users.database.change(work).await.map_err(Error::from_write)?;
    issuer.audit.change("client_created", &actor(&identity), id, &origin);
    let location = [(header::LOCATION, format!("/auth/clients/{id}"))];
    let created = CreatedClient { client: row.into(), client_secret: secret };
    Ok((StatusCode::CREATED, NO_STORE, location, axum::Json(created)))
}

/// List clients
#[utoipa::path(
    get,
    path = "/auth/clients",
    operation_id = "listClients",
    tag = "auth",
    security(("bearer" = [])),
    params(ListClients),
    responses(
        (status = OK, description = "A page of clients.", body = Vec<Client>, headers(
            ("link" = Option<String>, description = "The next page (`rel=\"next\"`), if there is one."),
        )),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
        (status = FORBIDDEN, description = "The caller is not an administrator."),
    ),
)]
pub(in crate::routes) async fn list(
    State(users): State<Users>,
    _: Administrator,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListClients>,
) -> Result<Page<Client>, Problem> {
    let limit = query.limit.with_lookahead();
    let rows = users.database.run(async |connection| client::list(connection, query.after, limit).await).await?;
    let clients = rows.into_iter().map(Client::from).collect();
    Page::new(clients, query.limit, &uri, |client| client.id.to_string())
}

/// Delete a client
///
/// It gets no more tokens. Those it has may be accepted until they expire.
#[utoipa::path(
    delete,
    path = "/auth/clients/{id}",
    operation_id = "deleteClient",
    tag = "auth",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The client's id.")),
    responses(
        (status = NO_CONTENT, description = "The client was deleted."),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
        (status = FORBIDDEN, description = "The caller is not an administrator."),
        (status = NOT_FOUND, description = "The client does not exist."),
    ),
)]
pub(in crate::routes) async fn delete(
    State(users): State<Users>,
    Administrator(identity): Administrator,
    origin: Origin,
    Path(id): Path<String>,
) -> Result<StatusCode, Error> {
    let issuer = users.issuer()?;
    let UserId(id) = id.parse().map_err(|_| Error::NoClient)?;
    let deleted = users.database.change(async |connection| client::delete(connection, id).await).await;
    if !deleted.map_err(Error::from_write)? {
        return Err(Error::NoClient);
    }
    issuer.audit.change("client_deleted", &actor(&identity), id, &origin);
    Ok(StatusCode::NO_CONTENT)
}
