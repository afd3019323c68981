//! A peer of `inventory` for `bench/run`: `POST /reservations` of one item, as one statement through sqlx.
//!
//! The same server, driver and allocator, the same rows and the same response, and nothing else that the service does.

use std::{env, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::net::TcpListener;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const POOL_SIZE: u32 = 8;

const RESERVE: &str = "
WITH clock AS MATERIALIZED (
    SELECT date_trunc('second', clock_timestamp() + interval '900 s' + interval '999999 us') AS expires_at
), product AS (
    UPDATE stock SET reserved = reserved + $3, version = version + 1,
                     next_expiry = least(next_expiry, (SELECT expires_at FROM clock))
    WHERE product_id = $2 AND on_hand - reserved >= $3 AND (next_expiry IS NULL OR next_expiry > clock_timestamp())
    RETURNING product_id, on_hand, reserved, version
), held AS (
    INSERT INTO reservation (id, state, expires_at, product_ids, quantities)
    SELECT $1, 'held', expires_at, ARRAY[product_id], ARRAY[$3::bigint] FROM clock, product
), expiring AS (
    INSERT INTO expiry (product_id, expires_at, quantity, holds) SELECT product_id, expires_at, $3, 1 FROM clock, product
    ON CONFLICT (product_id, expires_at) DO UPDATE
        SET quantity = expiry.quantity + excluded.quantity, holds = expiry.holds + excluded.holds
), entry AS (
    INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
    SELECT product_id, version, 'hold', 0, $3, on_hand, reserved, $1 FROM clock, product
)
SELECT expires_at FROM clock, product";

#[derive(Deserialize)]
struct New {
    items: [Item; 1],
}

#[derive(Deserialize, Serialize)]
struct Item {
    product_id: String,
    quantity: i64,
}

#[derive(Serialize)]
struct Reservation {
    id: Uuid,
    state: &'static str,
    items: [Item; 1],
    expires_at: DateTime<Utc>,
}

async fn reserve(State(pool): State<Arc<PgPool>>, Json(New { items }): Json<New>) -> Response {
    let id = Uuid::now_v7();
    let [Item { product_id, quantity }] = &items;
    let reserve = sqlx::query_scalar(RESERVE).bind(id).bind(product_id).bind(quantity);
    match reserve.fetch_optional(&*pool).await {
        Ok(Some(expires_at)) => {
            let headers = [(header::LOCATION, format!("/reservations/{id}")), (header::ETAG, "\"1\"".to_owned())];
            (StatusCode::CREATED, headers, Json(Reservation { id, state: "held", items, expires_at })).into_response()
        }
        Ok(None) => StatusCode::CONFLICT.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves on `HTTP_ADDR`, with the database at `DATABASE_URL`.
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // sqlx would otherwise ping each connection before it is used.
    let options = PgPoolOptions::new().max_connections(POOL_SIZE).test_before_acquire(false);
    let pool = options.connect(&env::var("DATABASE_URL")?).await?;
    let routes = Router::new().route("/reservations", post(reserve)).route("/ready", get(async || "ready"));
    let listener = TcpListener::bind(env::var("HTTP_ADDR")?).await?;
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |stream| _ = stream.set_nodelay(true)),
        routes.with_state(Arc::new(pool)),
    )
    .await?;
    Ok(())
}
