//! Finds out who sends a request, before its handler runs.

use std::{collections::HashMap, sync::Arc};

use axum::extract::{MatchedPath, Request};
use http::{Method, header};
use identity::{Refusal, Verifier};
use runtime::request::LogLimit;
use utoipa::openapi::{
    OpenApi,
    path::{Operation, PathItem},
    security::SecurityRequirement,
};

use crate::{Identity, limits::REFUSAL_LOG_INTERVAL};

/// Puts the [`Identity`] of a request into its extensions.
#[derive(Clone)]
pub(crate) struct Authenticator(Arc<Inner>);

struct Inner {
    verifier: Verifier,
    /// The operations that never look at tokens, by their paths.
    public: HashMap<String, Vec<Method>>,
}

impl Authenticator {
    pub(crate) fn new(verifier: Verifier, document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter().map(|(path, item)| (path.clone(), public_methods(item)));
        let public = paths.filter(|(_, methods)| !methods.is_empty()).collect();
        Self(Arc::new(Inner { verifier, public }))
    }

    /// Identifies the caller at once, or returns `None` if that takes a request for keys: see
    /// [`authenticate_later`](Self::authenticate_later).
    pub(crate) fn authenticate(&self, request: &mut Request) -> Option<Result<(), Refusal>> {
        let identity = if self.is_public(request) {
            Ok(identity::Identity::Anonymous)
        } else {
            self.0.verifier.try_identify(request.headers())?
        };
        Some(identity.map(|identity| self.insert(request, identity)))
    }

    /// Identifies the caller, with a request for keys if necessary.
    pub(crate) async fn authenticate_later(&self, request: &mut Request) -> Result<(), Refusal> {
        let identity = self.0.verifier.identify(request.headers()).await?;
        self.insert(request, identity);
        Ok(())
    }

    fn insert(&self, request: &mut Request, identity: identity::Identity) {
        request.extensions_mut().insert(Identity::new(self.0.verifier.mode(), identity));
    }

    /// Whether the request is for an operation that never looks at tokens.
    fn is_public(&self, request: &Request) -> bool {
        if self.0.public.is_empty() || !request.headers().contains_key(header::AUTHORIZATION) {
            return false;
        }
        let path = request.extensions().get::<MatchedPath>().and_then(|path| self.0.public.get(path.as_str()));
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        path.is_some_and(|methods| methods.contains(method))
    }
}

/// The methods of a path whose security requirements are all empty.
fn public_methods(item: &PathItem) -> Vec<Method> {
    let operations = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
    ];
    let is_public = |operation: &Operation| {
        let requirements = operation.security.as_deref();
        requirements.is_some_and(|all| all.iter().all(|requirement| *requirement == SecurityRequirement::default()))
    };
    let public = operations.into_iter().filter(|(_, operation)| operation.as_ref().is_some_and(is_public));
    public.map(|(method, _)| method).collect()
}

/// Logs that a request was refused because of who sent it. A metric counts all refusals; a flood of bad tokens does not
/// flood the log.
pub(crate) fn log_refusal(refusal: &Refusal, operation: &str, request_id: &str) {
    static REFUSALS: LogLimit = LogLimit::new(REFUSAL_LOG_INTERVAL);
    if let Some(omitted) = REFUSALS.due() {
        let reason = refusal.to_string();
        tracing::info!(target: "audit", event = "refusal", operation, request_id, reason, omitted, "caller refused");
    }
}
