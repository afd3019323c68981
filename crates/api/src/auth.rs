//! Who may send which requests to a route: the field `route.auth` of a `Microservice` and of the route annotation.
//!
//! A gateway must never open a route because it does not understand a rule. So the field travels as the JSON that its
//! author wrote, through versions of the operator that may not know all of it, and only [`RouteAuth::parse`] decides
//! whether all of it is understood. The API server keeps unknown fields, too: without them, a rule could be wider than
//! what its author wrote.

#[cfg(feature = "kind")]
use kube::KubeSchema;
#[cfg(feature = "kind")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "kind")]
use crate::kind::schema;

/// The maximum number of rules, and of the entries of each list in a rule.
pub const MAX_RULES: usize = 50;

/// Who may send requests to the service through the gateway. The gateway refuses all others early; the service itself
/// decides who owns what. If the gateway does not understand a part of this, it closes the route: requests get 503.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kind", derive(KubeSchema))]
#[cfg_attr(feature = "kind", x_kube(validation = (
    "!has(self.scopes) || size(self.scopes) == 0 || !has(self.mode) || self.mode == 'required'",
    "auth.scopes must not be set together with mode optional or none"
)))]
#[cfg_attr(feature = "kind", schemars(extend("x-kubernetes-preserve-unknown-fields" = true)))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteAuth {
    /// Whether a request needs an access token. With required, a request without a token gets 401. With optional, it
    /// is anonymous. With none, tokens are not even looked at, for example below the path of a login. A bad token is
    /// refused with required and optional alike. If not set, a token is required where the gateway's AUTH is required,
    /// and optional where it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kind", schemars(schema_with = "schema::choice::<AuthMode>"))]
    pub mode: Option<AuthMode>,
    /// The scopes that a token must have, all of them. A request whose token lacks one gets 403.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kind", schemars(schema_with = "schema::scopes"))]
    #[cfg_attr(feature = "kind", x_kube(merge_strategy = ListMerge::Set))]
    pub scopes: Vec<String>,
    /// How the service learns who sent a request. With token, it gets the Authorization header as the client sent it,
    /// and verifies the token again. With headers, for services that cannot verify tokens, the gateway removes it and
    /// sets x-hedgerow-subject, x-hedgerow-scope and x-hedgerow-client. Such a service must be reachable through the
    /// gateway only.
    #[serde(default)]
    #[cfg_attr(feature = "kind", schemars(schema_with = "schema::choice::<Forward>"))]
    pub forward: Forward,
    /// Rules for some of the requests. The first one that matches a request replaces mode and scopes above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kind", schemars(length(max = 50)))]
    pub rules: Vec<AuthRule>,
}

/// A rule for some of the requests to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kind", derive(KubeSchema))]
#[cfg_attr(feature = "kind", x_kube(validation = (
    "!has(self.scopes) || size(self.scopes) == 0 || !has(self.mode) || self.mode == 'required'",
    "scopes of a rule must not be set together with mode optional or none"
)))]
#[cfg_attr(feature = "kind", schemars(extend("x-kubernetes-preserve-unknown-fields" = true)))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthRule {
    /// The methods that the rule is for. GET includes HEAD. If empty, it is for all methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kind", schemars(schema_with = "schema::methods"))]
    #[cfg_attr(feature = "kind", x_kube(merge_strategy = ListMerge::Set))]
    pub methods: Vec<String>,
    /// The path prefixes that the rule is for, matched by whole segments as in route.paths. If empty, it is for all
    /// paths of the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kind", schemars(schema_with = "schema::prefixes"))]
    #[cfg_attr(feature = "kind", x_kube(merge_strategy = ListMerge::Set))]
    #[cfg_attr(feature = "kind", x_kube(validation = (
        "self.all(path, path.matches('^/([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*)?$') \
         && !path.matches('/[.][.]?(/|$)'))",
        "a path must be / or have the form /orders or /v1/orders: it starts with a slash, does not end with one, and \
         no segment is empty, . or .."
    )))]
    pub paths: Vec<String>,
    /// As auth.mode. If not set, a token is required where the gateway's AUTH is required, or, without scopes, as
    /// auth.mode says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "kind", schemars(schema_with = "schema::choice::<AuthMode>"))]
    pub mode: Option<AuthMode>,
    /// As auth.scopes, which do not apply in addition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "kind", schemars(schema_with = "schema::scopes"))]
    #[cfg_attr(feature = "kind", x_kube(merge_strategy = ListMerge::Set))]
    pub scopes: Vec<String>,
}

/// Whether a request needs an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kind", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// A request without a token is refused.
    Required,
    /// A request without a token is anonymous.
    Optional,
    /// Tokens are not looked at.
    None,
}

/// How a service learns who sent a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kind", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// It gets the `Authorization` header as the client sent it.
    #[default]
    Token,
    /// It gets `x-hedgerow-subject`, `-scope` and `-client`, set by the gateway, and no `Authorization` header.
    Headers,
}

impl RouteAuth {
    /// Parses the field `auth` of a route. Null is the same as `{}`.
    ///
    /// # Errors
    /// Returns an error if any part of it is not understood or cannot take effect: an unknown field or value, a
    /// malformed path or scope, or scopes for requests that need no token. The route must then be closed.
    pub fn parse(auth: &Value) -> Result<Self, String> {
        // serde would take lists for structs, too.
        let rules = auth.get("rules").and_then(Value::as_array).into_iter().flatten();
        if let Some(bad) = std::iter::once(auth).chain(rules).find(|value| value.is_array()) {
            return Err(format!("invalid type: {bad} is a list"));
        }
        let auth: Option<Self> =
            Deserialize::deserialize(auth).map_err(|error: serde_json::Error| error.to_string())?;
        let auth = auth.unwrap_or_default();
        check(auth.mode, &auth.scopes)?;
        if auth.rules.len() > MAX_RULES {
            return Err(format!("more than {MAX_RULES} rules"));
        }
        for (index, rule) in auth.rules.iter().enumerate() {
            rule.check().map_err(|error| format!("rules[{index}]: {error}"))?;
        }
        Ok(auth)
    }
}

impl AuthRule {
    fn check(&self) -> Result<(), String> {
        check(self.mode, &self.scopes)?;
        let is_method = |method: &&String| {
            !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
        };
        if let Some(bad) = self.methods.iter().find(|method| !is_method(method)) {
            return Err(format!("invalid method {bad:?}; expected upper-case letters"));
        }
        if let Some(bad) = self.paths.iter().find(|path| !is_canonical(path)) {
            return Err(format!("invalid path {bad:?}; expected one like /orders/public"));
        }
        Ok(())
    }
}

fn check(mode: Option<AuthMode>, scopes: &[String]) -> Result<(), String> {
    // RFC 6749, section 3.3.
    let is_scope = |scope: &&String| {
        !scope.is_empty() && scope.bytes().all(|byte| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~'))
    };
    if let Some(bad) = scopes.iter().find(|scope| !is_scope(scope)) {
        return Err(format!("invalid scope {bad:?}"));
    }
    if !scopes.is_empty() && matches!(mode, Some(AuthMode::Optional | AuthMode::None)) {
        return Err("scopes need mode required".to_owned());
    }
    Ok(())
}

/// Whether a path has the form that the schema demands of `route.paths`.
fn is_canonical(path: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_unreserved);
    path == "/" || path.strip_prefix('/').is_some_and(|segments| segments.split('/').all(is_segment))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_is_read_and_written_back() {
        let auth = json!({
            "mode": "optional",
            "forward": "headers",
            "rules": [
                { "methods": ["GET"], "paths": ["/orders/public", "/carts"], "mode": "none" },
                { "methods": ["POST"], "scopes": ["orders:write"] },
                { "mode": "required" },
            ],
        });
        assert_eq!(serde_json::to_value(RouteAuth::parse(&auth).expect("valid")).expect("JSON"), auth);
        let scoped = json!({ "mode": "required", "scopes": ["a", "https://x.example/b"], "forward": "token" });
        assert_eq!(serde_json::to_value(RouteAuth::parse(&scoped).expect("valid")).expect("JSON"), scoped);
        assert_eq!(RouteAuth::parse(&Value::Null), Ok(RouteAuth::default()));
        assert_eq!(RouteAuth::parse(&json!({})), Ok(RouteAuth::default()));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let rule = |rule: Value| json!({ "rules": [rule] });
        for (auth, expected) in [
            (json!("required"), "invalid type"),
            (json!([]), "invalid type"),
            (json!(true), "invalid type"),
            (json!({ "mode": "Required" }), "unknown variant"),
            (json!({ "mode": "step-up" }), "unknown variant"),
            (json!({ "forward": "jwt" }), "unknown variant"),
            (json!({ "scope": ["a"] }), "unknown field"),
            (json!({ "scopes": "a" }), "invalid type"),
            (json!({ "scopes": [1] }), "invalid type"),
            (json!({ "scopes": ["a b"] }), "invalid scope"),
            (json!({ "scopes": [""] }), "invalid scope"),
            (json!({ "scopes": ["a\""] }), "invalid scope"),
            (json!({ "mode": "optional", "scopes": ["a"] }), "scopes need mode required"),
            (json!({ "mode": "none", "scopes": ["a"] }), "scopes need mode required"),
            (json!({ "rules": {} }), "invalid type"),
            (json!({ "rules": [null] }), "invalid type"),
            (json!({ "rules": vec![json!({}); 51] }), "more than 50 rules"),
            (rule(json!([])), "invalid type"),
            (rule(json!({ "claims": { "tier": "gold" } })), "unknown field"),
            (rule(json!({ "path": ["/orders/a"] })), "unknown field"),
            (rule(json!({ "methods": ["get"] })), "invalid method"),
            (rule(json!({ "methods": [""] })), "invalid method"),
            (rule(json!({ "methods": "GET" })), "invalid type"),
            (rule(json!({ "paths": ["/orders/"] })), "invalid path"),
            (rule(json!({ "paths": ["/orders/*"] })), "invalid path"),
            (rule(json!({ "paths": ["/orders/{id}"] })), "invalid path"),
            (rule(json!({ "paths": ["/orders/../a"] })), "invalid path"),
            (rule(json!({ "paths": ["/orders/%61"] })), "invalid path"),
            (rule(json!({ "paths": [""] })), "invalid path"),
            (rule(json!({ "mode": "none", "scopes": ["a"] })), "rules[0]: scopes need mode required"),
        ] {
            let error = RouteAuth::parse(&auth).expect_err(&auth.to_string());
            assert!(error.contains(expected), "{auth}: {error}");
        }
    }
}
