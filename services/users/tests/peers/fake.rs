//! A fake inventory that misbehaves on demand.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use axum::{
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use contracts::inventory::v1::{
    BatchGetStockRequest, BatchGetStockResponse, CommitRequest, ReleaseRequest, Reservation, ReserveRequest, Stock,
    inventory_server::{Inventory, InventoryServer},
};
use http::HeaderMap;
use test_support::{port::Port, process::TIMEOUT};
use tokio::runtime::{Builder, Runtime};
use tonic::{Status, async_trait, service::Routes};

/// How the fake behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// It works.
    Working,
    /// It reports healthy, but calls for stock get no response.
    Slow,
    /// It keeps its connections but sends no response at all.
    Frozen,
    /// It reports healthy, but calls for stock fail with UNAVAILABLE.
    Unavailable,
    /// All calls fail with UNAVAILABLE, health checks included.
    Failing,
}

struct Shared {
    behavior: Mutex<Behavior>,
    calls: AtomicUsize,
    last: Mutex<HeaderMap>,
}

/// An inventory that has 7 of every product. Killed when dropped.
pub struct Fake {
    pub address: SocketAddr,
    pub port: Port,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Fake {
    pub async fn start() -> Self {
        Self::start_at(Port::free()).await
    }

    pub async fn start_at(port: Port) -> Self {
        let shared =
            Shared { behavior: Mutex::new(Behavior::Working), calls: AtomicUsize::new(0), last: Mutex::default() };
        let shared = Arc::new(shared);
        // Shutting the runtime down closes all connections.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let routes = Routes::new(InventoryServer::new(Server)).into_axum_router();
        let routes = routes.layer(from_fn_with_state(shared.clone(), misbehave));
        let listen_on = port.clone();
        let listening = runtime.spawn(async move {
            let listener = listen_on.listen().await;
            tokio::spawn(async { axum::serve(listener, routes).await });
        });
        listening.await.expect("it listens");
        Self { address: port.address, port, shared, runtime: Some(runtime) }
    }

    pub fn behave(&self, behavior: Behavior) {
        *self.shared.behavior.lock().expect("no panic") = behavior;
    }

    /// The number of calls for stock.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// A header of the last call for stock.
    pub fn header(&self, name: &str) -> String {
        self.find(name).expect("such a header")
    }

    /// A header of the last call for stock, if it has it.
    pub fn find(&self, name: &str) -> Option<String> {
        let headers = self.shared.last.lock().expect("no panic");
        headers.get(name).map(|value| value.to_str().expect("ASCII").to_owned())
    }
}

impl Drop for Fake {
    /// Waits until it has stopped, so that another fake can use its port.
    fn drop(&mut self) {
        let runtime = self.runtime.take().expect("dropped once");
        // A runtime cannot be shut down inside another one.
        let _ = thread::spawn(move || runtime.shutdown_timeout(TIMEOUT)).join();
    }
}

async fn misbehave(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let is_stock_call = request.uri().path().ends_with("/BatchGetStock");
    if is_stock_call {
        shared.calls.fetch_add(1, Ordering::Relaxed);
        *shared.last.lock().expect("no panic") = request.headers().clone();
    }
    let behavior = *shared.behavior.lock().expect("no panic");
    match behavior {
        Behavior::Frozen => std::future::pending().await,
        Behavior::Slow if is_stock_call => std::future::pending().await,
        Behavior::Unavailable if is_stock_call => Status::unavailable("not now").into_http(),
        Behavior::Failing => Status::unavailable("not now").into_http(),
        _ => next.run(request).await,
    }
}

struct Server;

#[async_trait]
impl Inventory for Server {
    async fn batch_get_stock(
        &self,
        request: tonic::Request<BatchGetStockRequest>,
    ) -> Result<tonic::Response<BatchGetStockResponse>, Status> {
        let stock = |product_id| Stock { product_id, stock: 7, on_hand: 7, reserved: 0, version: 1 };
        let stocks = request.into_inner().product_ids.into_iter().map(stock).collect();
        Ok(tonic::Response::new(BatchGetStockResponse { stocks }))
    }

    async fn reserve(&self, _: tonic::Request<ReserveRequest>) -> Result<tonic::Response<Reservation>, Status> {
        Err(Status::unimplemented("users makes no reservations"))
    }

    async fn commit(&self, _: tonic::Request<CommitRequest>) -> Result<tonic::Response<Reservation>, Status> {
        Err(Status::unimplemented("users makes no reservations"))
    }

    async fn release(&self, _: tonic::Request<ReleaseRequest>) -> Result<tonic::Response<Reservation>, Status> {
        Err(Status::unimplemented("users makes no reservations"))
    }
}
