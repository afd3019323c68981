//! The HTTP side of a service: JSON bodies, extractors, paging, conditional requests, OpenAPI, and the layer around
//! every request.

mod awaited;
mod body;
mod conditional;
mod json;
mod message;
pub(crate) mod metrics;
pub(crate) mod observe;
pub(crate) mod openapi;
mod page;
mod path;
pub(crate) mod query;

pub use body::{Fields, FromFields, Json};
pub use conditional::{Preconditions, Tagged};
pub use page::{Limit, Page};
pub use path::Path;
pub use query::Query;
