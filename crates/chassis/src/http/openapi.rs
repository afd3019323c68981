//! The OpenAPI document with the responses that every operation has, and the page that shows it.

use axum::{Router, response::Redirect, routing::get};
use http::{Method, header};
use runtime::{FieldError, ProblemBody};
use utoipa::openapi::{
    Content, OpenApi, Ref, RefOr, Response, ResponseBuilder,
    header::HeaderBuilder,
    path::{Operation, PathItem},
    schema::{AdditionalProperties, ArrayItems, ObjectBuilder, Schema, Type},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::conditional;

/// The name of the security scheme of access tokens.
const BEARER: &str = "bearer";

/// Completes the document of a service's routes.
pub(crate) fn document(mut document: OpenApi, name: &str, about: &str, version: &str) -> OpenApi {
    name.clone_into(&mut document.info.title);
    version.clone_into(&mut document.info.version);
    document.info.description = Some(about.to_owned());
    document.info.license = None;
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Problem".to_owned(), <ProblemBody as utoipa::PartialSchema>::schema());
    components.schemas.insert("FieldError".to_owned(), <FieldError as utoipa::PartialSchema>::schema());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
    let bearer =
        bearer.description(Some("An access token. Where `AUTH` is `open`, requests may leave it out.")).build();
    components.security_schemes.insert(BEARER.to_owned(), SecurityScheme::Http(bearer).into());
    let mut bodies = Vec::new();
    for item in document.paths.paths.values_mut() {
        if let Some(get) = &mut item.get {
            document_preconditions(get);
        }
        for operation in operations(item) {
            complete(operation);
            bodies.extend(body_schemas(operation));
        }
    }
    while let Some(name) = bodies.pop() {
        if let Some(schema) = components.schemas.get_mut(&name) {
            refuse_unknown_fields(schema);
            bodies.extend(element_schemas(schema));
        }
    }
    document
}

/// `/openapi.json` and `/docs`, with all of the page's assets in the binary.
pub(crate) fn routes(document: OpenApi) -> Router {
    // The page must not ask a validator on the internet about the document.
    let config = Config::from("/openapi.json").validator_url("none");
    let page = SwaggerUi::new("/docs").config(config).url("/openapi.json", document);
    Router::from(page).route("/", get(async || Redirect::temporary("/docs/")))
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

/// Adds the responses that any operation or any operation with a body can have, unless the operation describes them
/// itself.
fn complete(operation: &mut Operation) {
    let mut common = vec![
        ("400", "The request is malformed."),
        ("500", "The service failed. Its log has the cause."),
        (
            "503",
            "The database is unavailable or the service is overloaded; retry after `Retry-After` seconds. With the \
             type `outcome-unknown`, which has no `Retry-After`, a change may have taken effect: check before you \
             repeat it.",
        ),
        // Unknown query parameters are refused by every operation.
        ("422", "The request is invalid; `errors` lists the reasons."),
    ];
    let requirements = operation.security.iter().flatten();
    if requirements.into_iter().any(|requirement| *requirement != SecurityRequirement::default()) {
        common.extend([
            ("401", "The token is missing or invalid; with the type `invalid-token`, `reason` says why."),
            ("403", "The caller may not do this; with the type `insufficient-scope`, `scope` says what it takes."),
        ]);
    }
    if operation.request_body.is_some() {
        common.extend([
            ("408", "The body did not arrive in time."),
            ("413", "The body is larger than 64 KiB."),
            ("415", "The media type is not supported."),
        ]);
    }
    let has_preconditions = operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.name == header::IF_MATCH.as_str(),
        RefOr::Ref(_) => false,
    });
    if has_preconditions {
        common.push(("412", "A precondition in `If-Match` or `If-None-Match` does not hold."));
    }
    for (status, description) in common {
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| problem(description).into());
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if status.as_str() >= "400" && response.content.is_empty() {
            response.content = problem("").content;
        }
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        let header = HeaderBuilder::new().schema(Some(text)).description(Some("The request id, as used in the log."));
        response.headers.insert("x-request-id".to_owned(), header.build().into());
    }
}

/// Documents the preconditions of a `GET` whose response has an `ETag`.
fn document_preconditions(get: &mut Operation) {
    let Some(RefOr::T(ok)) = get.responses.responses.get("200") else { return };
    let Some(etag) = ok.headers.get(header::ETAG.as_str()).cloned() else { return };
    get.parameters.get_or_insert_default().extend(conditional::parameters(&Method::GET).into_iter().map(RefOr::T));
    let mut unchanged = ResponseBuilder::new().description("The client has the current version.").build();
    unchanged.headers.insert(header::ETAG.to_string(), etag);
    get.responses.responses.insert("304".to_owned(), unchanged.into());
}

/// The names of the schemas of an operation's request body.
fn body_schemas(operation: &Operation) -> impl Iterator<Item = String> {
    let body = operation.request_body.as_ref().and_then(inline);
    let contents = body.into_iter().flat_map(|body| body.content.values()).filter_map(inline);
    contents.filter_map(|content| match &content.schema {
        Some(RefOr::Ref(schema)) => Some(schema.ref_location.rsplit('/').next()?.to_owned()),
        _ => None,
    })
}

fn inline<T>(part: &RefOr<T>) -> Option<&T> {
    match part {
        RefOr::T(part) => Some(part),
        RefOr::Ref(_) => None,
    }
}

/// The names of the schemas of a schema's array elements.
fn element_schemas(schema: &RefOr<Schema>) -> Vec<String> {
    let RefOr::T(Schema::Object(object)) = schema else { return Vec::new() };
    let lists = object.properties.values().filter_map(|property| match property {
        RefOr::T(Schema::Array(list)) => Some(&list.items),
        _ => None,
    });
    let names = lists.filter_map(|items| match items {
        ArrayItems::RefOrSchema(schema) => match &**schema {
            RefOr::Ref(schema) => Some(schema.ref_location.rsplit('/').next()?.to_owned()),
            RefOr::T(_) => None,
        },
        ArrayItems::False => None,
    });
    names.collect()
}

/// [`crate::Json`] rejects unknown fields.
fn refuse_unknown_fields(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(object)) = schema {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    }
}

fn problem(description: &str) -> Response {
    let body = Content::new(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new().description(description).content("application/problem+json", body).build()
}
