//! What the services have agreed on with each other: their gRPC APIs (`proto/`) with the code generated from them, and
//! the values that more than one of them takes.

mod product_id;

/// The inventory API.
pub mod inventory {
    /// Its first version; within it, changes only add.
    #[allow(clippy::pedantic, reason = "the code is generated")]
    pub mod v1 {
        tonic::include_proto!("hedgerow.inventory.v1");
    }
}

pub use product_id::ProductId;

/// The descriptions of all APIs, as a `google.protobuf.FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
