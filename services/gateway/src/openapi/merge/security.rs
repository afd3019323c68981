//! Adds what a route requires to the security requirements of its operations.
//!
//! The requirements of a document are alternatives, each of which is a set of schemes that must all be satisfied. The
//! gateway's own comes on top of all of them.

use api::AuthMode;
use http::Method;
use serde_json::{Map, Value, json};

use super::fragment::operations;
use crate::auth::Access;

/// The name of the scheme in documents that do not have it. Services of Hedgerow use it for the same.
const BEARER: &str = "bearer";

/// The name if a document uses that one for something else.
const GATEWAY_BEARER: &str = "gateway-bearer";

/// What a route requires of its operations.
pub(super) struct Security<'a> {
    access: &'a Access,
    /// What it requires if it does not say.
    default_mode: AuthMode,
    /// The scheme of access tokens.
    scheme: &'static str,
    /// The schemes that stand for an access token.
    token_schemes: Vec<String>,
}

impl<'a> Security<'a> {
    /// Adds the scheme of access tokens to a document if it is missing.
    pub(super) fn new(access: &'a Access, default_mode: AuthMode, document: &mut Value) -> Self {
        let is_bearer = |scheme: &Value| {
            scheme["type"] == "http"
                && scheme["scheme"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("bearer"))
        };
        let schemes = &document["components"]["securitySchemes"];
        let takes_tokens =
            |scheme: &Value| is_bearer(scheme) || matches!(scheme["type"].as_str(), Some("oauth2" | "openIdConnect"));
        let token_schemes = schemes.as_object().into_iter().flatten().filter(|(_, scheme)| takes_tokens(scheme));
        let token_schemes = token_schemes.map(|(name, _)| name.clone()).collect();
        let scheme = match schemes.get(BEARER) {
            Some(scheme) if !is_bearer(scheme) => GATEWAY_BEARER,
            _ => BEARER,
        };
        let security = Self { access, default_mode, scheme, token_schemes };
        if schemes.get(scheme).is_none() && (schemes.is_null() || schemes.is_object()) && document.is_object() {
            // A document without an object of components has nothing that refers to it.
            if !document["components"].is_object() {
                document["components"] = json!({});
            }
            let description = "An access token, verified by the gateway and by the service.";
            let bearer = json!({"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description});
            if !document["components"]["securitySchemes"].is_object() {
                document["components"]["securitySchemes"] = json!({});
            }
            document["components"]["securitySchemes"][scheme] = bearer;
        }
        security
    }

    /// Adds the requirements to the operations of a path item.
    pub(super) fn apply(&self, path: &str, item: &mut Value) {
        for (name, operation) in operations(item) {
            let Ok(method) = name.to_ascii_uppercase().parse::<Method>() else { continue };
            // A closed route requires what nobody has; the document says at least that a token is needed.
            let (mode, scopes) = match self.access.find(&method, path) {
                Some(requirement) => (requirement.mode.unwrap_or(self.default_mode), &*requirement.scopes),
                None => (AuthMode::Required, &[][..]),
            };
            let required = json!({self.scheme: scopes});
            match mode {
                AuthMode::None => {}
                AuthMode::Optional => {
                    operation.entry("security").or_insert_with(|| json!([{}, required]));
                }
                AuthMode::Required => self.require(operation, scopes),
            }
        }
    }

    /// Adds a token to each alternative that does not have one.
    fn require(&self, operation: &mut Map<String, Value>, scopes: &[Box<str>]) {
        let alternatives = operation.entry("security").or_insert_with(|| json!([]));
        let Value::Array(alternatives) = alternatives else { return };
        if alternatives.is_empty() {
            alternatives.push(json!({}));
        }
        for alternative in alternatives.iter_mut().filter_map(Value::as_object_mut) {
            let own = alternative.iter_mut().find(|(name, _)| self.token_schemes.contains(name));
            let Some((_, Value::Array(named))) = own else {
                alternative.insert(self.scheme.to_owned(), json!(scopes));
                continue;
            };
            for scope in scopes {
                if !named.iter().any(|name| name.as_str() == Some(scope)) {
                    named.push((&**scope).into());
                }
            }
        }
        // Alternatives that have become the same are one.
        let mut kept: Vec<Value> = Vec::new();
        for alternative in std::mem::take(alternatives) {
            if !kept.contains(&alternative) {
                kept.push(alternative);
            }
        }
        *alternatives = kept;
    }
}
