//! An inventory that misbehaves as it is told.

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
use test_support::{port::Port, process::PATIENCE};
use tokio::runtime::{Builder, Runtime};
use tonic::{Status, async_trait, service::Routes};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Well.
    Sound,
    /// It says that it serves, and does not tell the stock.
    Slow,
    /// It says nothing any more, and keeps its connections.
    Frozen,
    /// It says that it cannot tell the stock, and does not say that it is unwell.
    Unavailable,
    /// It says that it cannot do anything.
    Unwell,
}

struct Shared {
    manner: Mutex<Manner>,
    calls: AtomicUsize,
    last: Mutex<HeaderMap>,
}

/// An inventory that has 7 of everything; killed when it is dropped.
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
        let shared = Shared { manner: Mutex::new(Manner::Sound), calls: AtomicUsize::new(0), last: Mutex::default() };
        let shared = Arc::new(shared);
        // Its end is the end of all of its connections.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let routes = Routes::new(InventoryServer::new(Server)).into_axum_router();
        let routes = routes.layer(from_fn_with_state(shared.clone(), misbehave));
        let its_own = port.clone();
        let listening = runtime.spawn(async move {
            let listener = its_own.listen().await;
            tokio::spawn(async { axum::serve(listener, routes).await });
        });
        listening.await.expect("it listens");
        Self { address: port.address, port, shared, runtime: Some(runtime) }
    }

    pub fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().expect("no panic") = manner;
    }

    /// How often the stock was asked for.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// A header of the last such call.
    pub fn header(&self, name: &str) -> String {
        let headers = self.shared.last.lock().expect("no panic");
        headers[name].to_str().expect("ASCII").to_owned()
    }
}

impl Drop for Fake {
    /// Waits for its end, so that another one can have its port.
    fn drop(&mut self) {
        let runtime = self.runtime.take().expect("it is dropped once");
        // A runtime cannot be waited for inside another one.
        let _ = thread::spawn(move || runtime.shutdown_timeout(PATIENCE)).join();
    }
}

async fn misbehave(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let about_stock = request.uri().path().ends_with("/BatchGetStock");
    if about_stock {
        shared.calls.fetch_add(1, Ordering::Relaxed);
        *shared.last.lock().expect("no panic") = request.headers().clone();
    }
    let manner = *shared.manner.lock().expect("no panic");
    match manner {
        Manner::Frozen => std::future::pending().await,
        Manner::Slow if about_stock => std::future::pending().await,
        Manner::Unavailable if about_stock => Status::unavailable("not now").into_http(),
        Manner::Unwell => Status::unavailable("not now").into_http(),
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
        Err(Status::unimplemented("users reserves nothing"))
    }

    async fn commit(&self, _: tonic::Request<CommitRequest>) -> Result<tonic::Response<Reservation>, Status> {
        Err(Status::unimplemented("users reserves nothing"))
    }

    async fn release(&self, _: tonic::Request<ReleaseRequest>) -> Result<tonic::Response<Reservation>, Status> {
        Err(Status::unimplemented("users reserves nothing"))
    }
}
