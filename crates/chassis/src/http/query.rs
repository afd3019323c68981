//! Query strings: parameters of a type, and operations that accept only the parameters they document.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request},
    response::{IntoResponse, Response},
};
use futures_util::future::Either;
use http::{Method, StatusCode, request::Parts};
use runtime::{FieldError, MAX_ERRORS, Problem, percent};
use serde::de::DeserializeOwned;
use tower::{Layer, Service};
use utoipa::openapi::{
    OpenApi, RefOr,
    path::{Operation, ParameterIn},
};

use super::message::reword;

/// Extracts the parameters of the query string. Those that the operation does not document have already been
/// refused.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        check_escapes(query)?;
        let deserializer = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            // serde reports a repeated field without its path.
            let parameter = repeated(query).unwrap_or_else(|| error.path().to_string());
            Problem::invalid(vec![FieldError::parameter(parameter, reword(&error.into_inner().to_string()))])
        })
    }
}

fn check_escapes(query: &str) -> Result<(), Problem> {
    percent::check(query).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the query string {error}")))
}

/// The first parameter that is given more than once.
fn repeated(query: &str) -> Option<String> {
    let mut seen = HashSet::new();
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned());
    names.find(|name| !seen.insert(name.clone()))
}

/// The layer that refuses query parameters an operation does not document: a misspelled parameter is an error and not
/// silently ignored. Requests without a query string, and paths that are not documented, pass unchecked.
#[derive(Clone)]
pub(crate) struct KnownParameters(Arc<HashMap<String, Operations>>);

/// The methods of a path, each with the names of its query parameters.
type Operations = Vec<(Method, Vec<String>)>;

impl KnownParameters {
    /// Reads the parameters of all operations from the OpenAPI document.
    pub(crate) fn from_document(document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter().map(|(path, item)| {
            let operations = [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            let known = operations.into_iter().filter_map(|(method, item)| Some((method, names(item.as_ref()?))));
            (path.clone(), known.collect())
        });
        Self(Arc::new(paths.collect()))
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let Some(query) = request.uri().query() else { return Ok(()) };
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let path = request.extensions().get::<MatchedPath>().and_then(|path| self.0.get(path.as_str()));
        let Some((_, known)) = path.and_then(|path| path.iter().find(|(known, _)| known == method)) else {
            return Ok(());
        };
        check_escapes(query)?;
        let mut unknown = Vec::new();
        for (name, _) in form_urlencoded::parse(query.as_bytes()) {
            if !known.iter().any(|known| *known == name) && !unknown.contains(&name) {
                unknown.push(name);
            }
            if unknown.len() > MAX_ERRORS {
                break;
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let detail = match known.as_slice() {
            [] => "unknown parameter; this operation has no query parameters".to_owned(),
            known => format!("unknown parameter; known parameters: {}", known.join(", ")),
        };
        let errors = unknown.into_iter().map(|name| FieldError::parameter(name, detail.clone()));
        Err(Problem::invalid(errors.collect()))
    }
}

/// The names of an operation's query parameters.
fn names(operation: &Operation) -> Vec<String> {
    let parameters = operation.parameters.iter().flatten();
    let names = parameters.filter_map(|parameter| match parameter {
        RefOr::T(parameter) if matches!(parameter.parameter_in, ParameterIn::Query) => Some(parameter.name.clone()),
        _ => None,
    });
    names.collect()
}

impl<S> Layer<S> for KnownParameters {
    type Service = CheckParameters<S>;

    fn layer(&self, handler: S) -> CheckParameters<S> {
        CheckParameters { handler, known: self.clone() }
    }
}

/// The service of `KnownParameters`.
#[derive(Clone)]
pub(crate) struct CheckParameters<S> {
    handler: S,
    known: KnownParameters,
}

impl<S> Service<Request> for CheckParameters<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.handler.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.known.check(&request) {
            Ok(()) => Either::Left(self.handler.call(request)),
            Err(problem) => Either::Right(ready(Ok(problem.into_response()))),
        }
    }
}
