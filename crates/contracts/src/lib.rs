//! The contracts between services: their gRPC APIs (`proto/`) with the generated code, and types that several services
//! share.

mod product_id;
mod resource_id;

/// The inventory API.
pub mod inventory {
    /// Version 1. Changes to it must be additions.
    #[allow(clippy::pedantic, reason = "the code is generated")]
    pub mod v1 {
        tonic::include_proto!("hedgerow.inventory.v1");
    }
}

pub use product_id::ProductId;
pub use resource_id::{InvalidId, ResourceId};

/// The descriptors of all APIs, as a `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
