//! The `Microservice` kind: its types, its `CustomResourceDefinition`, and its validation without an API server.
//!
//! ```
//! let text = "
//! apiVersion: hedgerow.dev/v1alpha1
//! kind: Microservice
//! metadata: {name: orders}
//! spec:
//!   image: registry.example/team/orders:1.4.2
//!   database: {}
//!   route: {paths: [/orders]}
//! ";
//! let objects = api::parse(text)?;
//! assert_eq!(objects[0].spec.scaling.min, 2, "defaults are filled in");
//!
//! let error = api::parse(&text.replace("1.4.2", "latest")).unwrap_err();
//! assert!(error.to_string().contains("must have a tag other than latest"));
//! # Ok::<(), api::FileError>(())
//! ```
//!
//! The doc comment of a field is its description in `kubectl explain`, so it is written for a reader who knows
//! Kubernetes but not Rust. The types accept unknown fields and the schema refuses them: after a downgrade, an operator
//! must still read objects with fields that it does not know.
//!
//! The kind is behind the default feature `kind`. Without it, only the names that programs share are left, which the
//! gateway and the services use: they do not compile a JSON schema validator and a CEL interpreter for a few constants.

#![allow(clippy::doc_markdown, reason = "`kubectl explain` shows backticks as they are")]

mod auth;
pub mod identity;
#[cfg(feature = "kind")]
mod kind;
mod metadata;

pub use auth::{AuthMode, AuthRule, Forward, MAX_RULES, RouteAuth};
#[cfg(feature = "kind")]
pub use kind::*;
pub use metadata::{DEFAULT_GRPC_PORT, GATEWAY, RouteAnnotation, annotations, finalizers, grpc_url_variable, labels};
