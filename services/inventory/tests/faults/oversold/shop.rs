//! The products, and the state that the clients share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize},
};

use tokio::sync::watch;

/// Few products, so that they are contended and run out.
pub const PRODUCTS: [&str; 3] = ["cup", "mug", "pot"];

/// There is plenty of it. The quantity of each hold is the request's number.
pub const BULK: &str = "bulk";

/// Like [`BULK`], for holds of one item. Few expire, because expired holds prevent single-statement holds.
pub const CRATE: &str = "crate";

/// The state that the clients share.
#[derive(Clone)]
pub struct Shop {
    /// The addresses of the processes.
    pub addresses: watch::Receiver<Vec<String>>,
    pub ending: Arc<AtomicBool>,
    /// The number of requests with a known outcome.
    pub certain: Arc<AtomicUsize>,
    /// The source of unique request numbers.
    pub numbers: Arc<AtomicUsize>,
}
