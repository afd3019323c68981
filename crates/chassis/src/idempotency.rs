//! Idempotency keys: a request with an `Idempotency-Key` takes effect once, and repetitions get the first response.
//!
//! The response is stored in the service's own database, in the transaction that makes the change. A repetition that
//! arrives while this transaction runs, on any replica, waits for its end. Responses are kept for
//! [`RETENTION_HOURS`]. A request without a key runs as if there were none of this.
//!
//! A handler needs the key, a [`Claim`] to it, and [`Database::once`](crate::Database::once) in place of
//! [`Database::run`](crate::Database::run):
//!
//! ```
//! use axum::extract::State;
//! use chassis::{
//!     Database, Problem,
//!     database::DatabaseError,
//!     idempotency::{Claim, IdempotencyKey},
//! };
//! use http::{Method, StatusCode};
//! use sqlx::PgConnection;
//!
//! /// Create a note
//! #[utoipa::path(post, path = "/notes", params(IdempotencyKey), request_body = String)]
//! async fn create(
//!     State(database): State<Database>,
//!     key: Option<IdempotencyKey>,
//!     text: String,
//! ) -> Result<(StatusCode, String), Problem> {
//!     let claim = key.map(|key| Claim::new(&key, &Method::POST, "/notes", [&text]));
//!     let insert = async |connection: &mut PgConnection| {
//!         let insert = sqlx::query_scalar("INSERT INTO notes (text) VALUES ($1) RETURNING id").bind(&text);
//!         insert.fetch_one(connection).await.map(Ok)
//!     };
//!     let id: i64 = database.once(claim.as_ref(), insert).await.map_err(DatabaseError::into_change_problem).flatten()?;
//!     Ok((StatusCode::CREATED, format!("/notes/{id}")))
//! }
//! # let _: axum::Router<Database> = axum::Router::new().route("/notes", axum::routing::post(create));
//! ```
//!
//! What the closure returns is stored as JSON, and a repetition gets it back. So the whole response must follow from
//! it.
//!
//! The service also needs this table, which one of its migrations creates, and [`prune_in_background`]. Its
//! `microservice.yaml` lists the paths in `route.idempotencyKeys`, so that the gateway may repeat requests with a key.
//!
//! ```sql
#![doc = include_str!("idempotency/table.sql")]
//! ```
//!
//! A batch handler [claims](fn@claim) the keys of its batch, and [stores](fn@store) the responses, in its own
//! transaction. It sends the responses that it finds at once: they hold whatever becomes of the transaction.

mod claim;
mod key;
mod once;
mod prune;
mod table;

pub use claim::{Claim, Digest, KeyReused, Stored};
pub use key::IdempotencyKey;
pub use prune::{Pruner, prune_in_background};
pub use table::{claim, store};

/// How long a response is kept, in hours.
pub const RETENTION_HOURS: i32 = 24;
