//! The inventory API over gRPC, for other services. It follows the same rules as the HTTP API.

mod reservation;
mod stock;

use chassis::{
    Identity,
    grpc::{MESSAGE_LIMIT, status},
};
use contracts::inventory::v1::{
    BatchGetStockRequest, BatchGetStockResponse, CommitRequest, ReleaseRequest, Reservation, ReserveRequest,
    inventory_server::{Inventory as Api, InventoryServer},
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

use crate::{
    engine::Inventory,
    model::{RESERVATIONS_WRITE, Transition},
};

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
        let (identity, request) = reserver(request)?;
        Ok(Response::new(reservation::reserve(&self.0, &identity, request).await.map_err(status)?))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<Reservation>, Status> {
        let (identity, request) = reserver(request)?;
        let id = request.reservation_id;
        Ok(Response::new(reservation::transition(&self.0, &identity, &id, Transition::Commit).await.map_err(status)?))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<Reservation>, Status> {
        let (identity, request) = reserver(request)?;
        let id = request.reservation_id;
        Ok(Response::new(reservation::transition(&self.0, &identity, &id, Transition::Release).await.map_err(status)?))
    }
}

/// Takes a request apart whose caller may make and end reservations.
fn reserver<T>(request: Request<T>) -> Result<(Identity, T), Status> {
    let identity = Identity::of(request.extensions());
    identity.require_scope(RESERVATIONS_WRITE).map_err(|refusal| status(refusal.into()))?;
    Ok((identity, request.into_inner()))
}
