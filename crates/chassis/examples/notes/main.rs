#![doc = "A small service: it creates and lists notes."]

use std::process::ExitCode;

use axum::extract::{OriginalUri, State};
use chassis::{
    Database, Fields, FromFields, Json, Limit, Page, Problem, Query, Service,
    database::DatabaseError,
    idempotency::{self, Claim, IdempotencyKey},
};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, migrate::Migrator};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

static MIGRATIONS: Migrator = sqlx::migrate!("examples/notes/migrations");

/// A note.
#[derive(Serialize, Deserialize, ToSchema, sqlx::FromRow)]
struct Note {
    id: i64,
    text: String,
}

/// A note to create.
#[derive(ToSchema)]
struct NewNote {
    text: String,
}

impl FromFields for NewNote {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { text: fields.required("text")? })
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListNotes {
    /// The maximum number of notes on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The id of the last note on the previous page.
    after: Option<i64>,
}

/// List notes
#[utoipa::path(
    get,
    path = "/notes",
    params(ListNotes),
    responses((status = OK, description = "A page of notes.", body = Vec<Note>)),
)]
async fn list(
    State(database): State<Database>,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<ListNotes>,
) -> Result<Page<Note>, Problem> {
    let (limit, after) = (query.limit.with_lookahead(), query.after.unwrap_or(0));
    let notes = database
        .run(async |connection| {
            sqlx::query_as("SELECT id, text FROM notes WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(after)
                .bind(limit)
                .fetch_all(connection)
                .await
        })
        .await?;
    Page::new(notes, query.limit, &uri, |note: &Note| note.id.to_string())
}

/// Create a note, once for each key
#[utoipa::path(
    post,
    path = "/notes",
    params(IdempotencyKey),
    request_body = NewNote,
    responses((status = CREATED, description = "The note.", body = Note)),
)]
async fn create(
    State(database): State<Database>,
    key: Option<IdempotencyKey>,
    Json(new): Json<NewNote>,
) -> Result<(StatusCode, axum::Json<Note>), Problem> {
    let claim = key.map(|key| Claim::new(&key, &Method::POST, "/notes", [&new.text]));
    let insert = async |connection: &mut PgConnection| {
        let insert = sqlx::query_as("INSERT INTO notes (text) VALUES ($1) RETURNING id, text").bind(&new.text);
        insert.fetch_one(connection).await.map(Ok)
    };
    let note = database.once(claim.as_ref(), insert).await.map_err(DatabaseError::into_change_problem).flatten()?;
    Ok((StatusCode::CREATED, axum::Json(note)))
}

const SERVICE: Service<Database> = Service {
    name: "notes",
    about: "Notes: create and list them",
    version: env!("CARGO_PKG_VERSION"),
    migrations: &MIGRATIONS,
    api: || OpenApiRouter::new().routes(routes!(list, create)),
    grpc: None,
    peers: &[],
    state: |context| {
        idempotency::prune_in_background(context);
        context.database.clone()
    },
};

fn main() -> ExitCode {
    chassis::main(&SERVICE)
}
