//! The inventory API for other services, over gRPC: the rules of `routes`, by the same code.

mod stock;

use chassis::grpc::MESSAGE_LIMIT;
use contracts::inventory::v1::{
    BatchGetStockRequest, BatchGetStockResponse,
    inventory_server::{Inventory as Api, InventoryServer},
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

use crate::engine::Inventory;

/// The server.
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
        Ok(Response::new(stock::batch_get(&self.0, request.into_inner()).await?))
    }
}
