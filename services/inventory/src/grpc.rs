//! The inventory API over gRPC, for other services. It follows the same rules as the HTTP API.

mod reservation;
mod stock;

use chassis::grpc::{MESSAGE_LIMIT, status};
use contracts::inventory::v1::{
    BatchGetStockRequest, BatchGetStockResponse, CommitRequest, ReleaseRequest, Reservation, ReserveRequest,
    inventory_server::{Inventory as Api, InventoryServer},
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

use crate::{engine::Inventory, model::Transition};

/// The gRPC routes.
pub(crate) fn routes(inventory: Inventory) -> Routes {
    Routes::new(InventoryServer::new(Server(inventory)).max_decoding_message_size(MESSAGE_LIMIT))
}

struct Server(Inventory);

#[async_trait]
impl Api for Server {
    async fn batch_get_stock(
        &self,
        request: Request<BatchGetStockRequest>,
    ) -> Result<Response<BatchGetStockResponse>, Status> {
        Ok(Response::new(stock::batch_get(&self.0, request.into_inner()).await.map_err(status)?))
    }

    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<Reservation>, Status> {
        Ok(Response::new(reservation::reserve(&self.0, request.into_inner()).await.map_err(status)?))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<Reservation>, Status> {
        let id = request.into_inner().reservation_id;
        Ok(Response::new(reservation::transition(&self.0, &id, Transition::Commit).await.map_err(status)?))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<Reservation>, Status> {
        let id = request.into_inner().reservation_id;
        Ok(Response::new(reservation::transition(&self.0, &id, Transition::Release).await.map_err(status)?))
    }
}
