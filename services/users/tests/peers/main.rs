//! Wishlists with inventories that are slow, unresponsive, dead or restarting, over real sockets, and the tokens that
//! they get.

mod fake;
mod log;
mod one;
mod several;
mod tokens;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::PgPool;
use test_support::{
    app::{App, database_url},
    process::{TIMEOUT, eventually},
};

/// How long a degraded response may take: the 300 ms for inventory plus some slack for a busy machine.
const DEGRADED: Duration = Duration::from_millis(1500);

/// Users, configured with the addresses of inventory, and the path of a wishlist.
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

    /// Whether the wishlist has stock.
    async fn has_stock(&self) -> bool {
        let wishlist = self.wishlist().await;
        let known = wishlist["items"][0]["stock"].is_number();
        assert_eq!(wishlist["degraded"], !known);
        known
    }

    /// Waits until the wishlist has stock.
    async fn eventually_has_stock(&self) {
        eventually("the wishlist has stock", TIMEOUT, async || self.has_stock().await.then_some(())).await;
    }

    /// Asserts that a response without stock is sent soon. If the machine pauses, tries again.
    async fn is_degraded_in_time(&self) {
        eventually("a response in time", TIMEOUT, async || {
            let started = Instant::now();
            assert!(!self.has_stock().await);
            (started.elapsed() < DEGRADED).then_some(())
        })
        .await;
    }

    async fn metrics(&self) -> String {
        self.app.admin("/metrics").await.text()
    }
}
