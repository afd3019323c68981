//! Wishlists with inventories that are slow, dead, half dead or coming back, over real sockets.

mod fake;
mod one;
mod several;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::{
    app::{App, database_url},
    process::{PATIENCE, eventually},
};

/// How long an answer may take where inventory gives none: its 300 ms, and a moment for a busy machine.
const DEGRADED: Duration = Duration::from_millis(1500);

/// Users, told where its inventories are, and the path of one wishlist.
struct Users {
    app: App,
    wishlist: String,
}

impl Users {
    async fn start(pool: &PgPool, inventories: &[SocketAddr]) -> Self {
        Self::with_products(pool, inventories, 1).await
    }

    async fn with_products(pool: &PgPool, inventories: &[SocketAddr], count: usize) -> Self {
        let addresses: Vec<String> = inventories.iter().map(ToString::to_string).collect();
        let url = format!("http://{}", addresses.join(",")).parse().expect("a URL");
        let peers = vec![("inventory", url)];
        let app = App::start_with_peers(&users::SERVICE, database_url(&pool.connect_options()), peers).await;
        let products: Vec<_> = (0..count).map(|number| format!("p{number:03}")).collect();
        let new = json!({"name": "Ada", "email": "ada@example.com", "wishlist": products});
        let user = app.post("/users", &new).await.json(201);
        let wishlist = format!("/users/{}/wishlist", user["id"].as_str().expect("an id"));
        Self { app, wishlist }
    }

    async fn wishlist(&self) -> Value {
        self.app.get(&self.wishlist).await.json(200)
    }

    /// Whether stock was shown.
    async fn shows_stock(&self) -> bool {
        let wishlist = self.wishlist().await;
        let known = wishlist["items"][0]["stock"].is_number();
        assert_eq!(wishlist["degraded"], !known);
        known
    }

    /// Waits until stock is shown.
    async fn eventually_shows_stock(&self) {
        eventually("stock is shown", PATIENCE, async || self.shows_stock().await.then_some(())).await;
    }

    /// Checks that no stock is shown, and soon: where the machine paused meanwhile, the next time.
    async fn is_degraded_in_time(&self) {
        eventually("an answer comes in time", PATIENCE, async || {
            let begun = Instant::now();
            assert!(!self.shows_stock().await);
            (begun.elapsed() < DEGRADED).then_some(())
        })
        .await;
    }

    async fn metrics(&self) -> String {
        self.app.admin("/metrics").await.text()
    }
}
