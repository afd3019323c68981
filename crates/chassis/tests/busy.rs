//! A service whose request thread is busy.

use std::sync::Barrier;

use axum::routing::get;
use chassis::Service;
use sqlx::migrate::Migrator;
use test_support::app::App;
use tokio::{join, sync::Notify};
use utoipa_axum::router::OpenApiRouter;

static BEGUN: Notify = Notify::const_new();
static END: Barrier = Barrier::new(2);
static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

static SERVICE: Service<()> = Service {
    name: "busy",
    about: "Blocks the thread that serves requests",
    version: "1.0.0",
    migrations: &NO_MIGRATIONS,
    api: || {
        OpenApiRouter::new().route(
            "/busy",
            get(async || {
                BEGUN.notify_one();
                END.wait();
            }),
        )
    },
    grpc: None,
    peers: &[],
    state: |_| (),
};

#[tokio::test]
async fn probes_respond_while_the_request_thread_is_busy() {
    let app = App::start_on(&SERVICE, "postgres://nobody@127.0.0.1:1/none".to_owned()).await;
    let (busy, ()) = join!(app.get("/busy"), async {
        BEGUN.notified().await;
        assert_eq!(app.admin("/livez").await.status, 200);
        END.wait();
    });
    assert_eq!(busy.status, 200);
}
