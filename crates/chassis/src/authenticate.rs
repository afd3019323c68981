//! Finds out who sends a request, before its handler runs.

use std::{collections::HashMap, sync::Arc};

use axum::extract::{MatchedPath, Request};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use identity::{Caller, Kind, Reason, Refusal, Verifier};
use utoipa::openapi::{
    OpenApi,
    path::{Operation, PathItem},
    security::SecurityRequirement,
};

use crate::{AllowFrom, Identity, on_behalf::ON_BEHALF_OF};

/// Puts the [`Identity`] of a request into its extensions.
#[derive(Clone)]
pub(crate) struct Authenticator(Arc<Inner>);

struct Inner {
    verifier: Verifier,
    allow_from: AllowFrom,
    /// Whether the service calls others and proves to them who it is.
    makes_calls: bool,
    /// The operations that never look at tokens, by their paths.
    public: HashMap<String, Vec<Method>>,
}

/// A request that may be handled.
pub(crate) struct Admitted {
    pub(crate) identity: Identity,
    /// The token for calls that are made on behalf of the caller.
    pub(crate) user_token: Option<HeaderValue>,
}

impl Authenticator {
    /// `makes_calls` says whether the service calls others and proves to them who it is.
    pub(crate) fn new(verifier: Verifier, allow_from: AllowFrom, makes_calls: bool, document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter().map(|(path, item)| (path.clone(), public_methods(item)));
        let public = paths.filter(|(_, methods)| !methods.is_empty()).collect();
        Self(Arc::new(Inner { verifier, allow_from, makes_calls, public }))
    }

    /// Identifies the caller at once, or returns `None` if that takes a request for keys: see
    /// [`authenticate_later`](Self::authenticate_later).
    pub(crate) fn authenticate(&self, request: &mut Request) -> Option<Result<Admitted, Refusal>> {
        let admitted = if self.is_public(request) {
            Ok(self.0.admitted(None, None, request.headers()))
        } else {
            self.0.try_admit(request.headers())?
        };
        Some(admitted.inspect(|admitted| insert(request, admitted)))
    }

    /// Identifies the caller, with a request for keys if necessary.
    pub(crate) async fn authenticate_later(&self, request: &mut Request) -> Result<Admitted, Refusal> {
        let admitted = self.0.admit(request.headers()).await?;
        insert(request, &admitted);
        Ok(admitted)
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

fn insert(request: &mut Request, admitted: &Admitted) {
    request.extensions_mut().insert(admitted.identity.clone());
}

impl Inner {
    fn try_admit(&self, headers: &HeaderMap) -> Option<Result<Admitted, Refusal>> {
        let sender = match self.check(self.verifier.try_identify(headers)?) {
            Ok(sender) => sender,
            Err(refusal) => return Some(Err(refusal)),
        };
        if !is_on_behalf(sender.as_deref(), headers) {
            return Some(Ok(self.admitted(sender, None, headers)));
        }
        let user = self.verifier.try_identify_by(headers, &ON_BEHALF_OF)?;
        Some(self.user(user).map(|user| self.admitted(Some(user), sender, headers)))
    }

    async fn admit(&self, headers: &HeaderMap) -> Result<Admitted, Refusal> {
        let sender = self.check(self.verifier.identify(headers).await)?;
        if !is_on_behalf(sender.as_deref(), headers) {
            return Ok(self.admitted(sender, None, headers));
        }
        let user = self.user(self.verifier.identify_by(headers, &ON_BEHALF_OF).await)?;
        Ok(self.admitted(Some(user), sender, headers))
    }

    /// Refuses services that may not call this one.
    fn check(&self, result: Result<identity::Identity, Refusal>) -> Result<Option<Arc<Caller>>, Refusal> {
        match result? {
            identity::Identity::Anonymous => Ok(None),
            identity::Identity::Caller(caller) => self.allow_from.check(&caller).map(|()| Some(caller)),
        }
    }

    /// The user for whom a service sends the request. That service has said that there is one.
    fn user(&self, result: Result<identity::Identity, Refusal>) -> Result<Arc<Caller>, Refusal> {
        match self.check(result) {
            Ok(Some(user)) => Ok(user),
            Ok(None) | Err(Refusal::SeveralTokens) => Err(Refusal::InvalidToken(Reason::Malformed)),
            Err(refusal) => Err(refusal),
        }
    }

    fn admitted(&self, caller: Option<Arc<Caller>>, service: Option<Arc<Caller>>, headers: &HeaderMap) -> Admitted {
        let header = if service.is_some() { &ON_BEHALF_OF } else { &header::AUTHORIZATION };
        let user_token = caller.as_deref().and_then(|caller| self.user_token(caller, headers, header));
        Admitted { identity: Identity::new(self.verifier.mode(), caller, service), user_token }
    }

    /// The token of a caller for whom this service may call others. The token of a service is for this one alone.
    fn user_token(&self, caller: &Caller, headers: &HeaderMap, header: &HeaderName) -> Option<HeaderValue> {
        if !self.makes_calls || caller.kind() == Kind::Service && !caller.is_admin() {
            return None;
        }
        let mut token = headers.get(header)?.clone();
        token.set_sensitive(true);
        Some(token)
    }
}

/// Whether a service sends the request for a user. Of anybody else the header says nothing.
fn is_on_behalf(sender: Option<&Caller>, headers: &HeaderMap) -> bool {
    sender.is_some_and(|sender| sender.kind() == Kind::Service) && headers.contains_key(ON_BEHALF_OF)
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
