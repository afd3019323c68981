//! Which requests a route lets in: the field `route.auth`, ready to be applied to every request.

use api::{AuthMode, AuthRule, Forward, RouteAuth};
use http::{Method, request::Parts};
use serde_json::Value;

use super::{Denial, path::is_ambiguous};

/// Which requests a route lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// Those that meet the requirement of the first rule that matches, or else the last one.
    Rules {
        /// The rules, and what they require.
        rules: Box<[(Rule, Requirement)]>,
        /// What all other requests require.
        otherwise: Requirement,
        /// How the service learns who sent a request.
        forward: Forward,
    },
    /// None, for this reason: the gateway does not understand the rules.
    Closed(Box<str>),
}

/// What a request must have to be let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Requirement {
    /// Whether it needs a token; `None` if that depends on the gateway's settings.
    pub(crate) mode: Option<AuthMode>,
    /// The scopes that its token must have.
    pub(crate) scopes: Box<[Box<str>]>,
}

/// Which requests a rule is for. An empty list stands for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    methods: Box<[Method]>,
    paths: Box<[Box<str>]>,
}

/// The rules of a route without the field.
impl Default for Access {
    fn default() -> Self {
        Self::Rules { rules: Box::default(), otherwise: Requirement::default(), forward: Forward::default() }
    }
}

impl Access {
    /// Reads the field; `None` if a route does not have it. What is not understood closes the route.
    pub(crate) fn new(auth: Option<&Value>) -> Self {
        let Some(auth) = auth else { return Self::default() };
        RouteAuth::parse(auth).and_then(Self::compile).unwrap_or_else(|reason| Self::Closed(reason.into()))
    }

    fn compile(auth: RouteAuth) -> Result<Self, String> {
        let RouteAuth { mode, scopes, forward, rules } = auth;
        let rule = |rule: AuthRule| {
            // A rule with scopes is about tokens, so it never inherits that there need not be one.
            let inherited = if rule.scopes.is_empty() { mode } else { mode.filter(|mode| *mode == AuthMode::Required) };
            let requirement = Requirement::new(rule.mode.or(inherited), rule.scopes);
            let methods = rule.methods.iter().map(|method| method.parse()).collect::<Result<_, _>>();
            let methods = methods.map_err(|_| "invalid method".to_owned())?;
            let paths = rule.paths.iter().map(|path| path.trim_end_matches('/').into()).collect();
            Ok((Rule { methods, paths }, requirement))
        };
        let rules = rules.into_iter().map(rule).collect::<Result<_, String>>()?;
        Ok(Self::Rules { rules, otherwise: Requirement::new(mode, scopes), forward })
    }

    /// Why the route is closed, if it is.
    pub(crate) fn closed(&self) -> Option<&str> {
        if let Self::Closed(reason) = self { Some(reason) } else { None }
    }

    /// What a request must have to be let in.
    pub(super) fn requirement(&self, parts: &Parts) -> Result<&Requirement, Denial> {
        if let Self::Rules { rules, .. } = self
            && rules.iter().any(|(rule, _)| !rule.paths.is_empty())
            && is_ambiguous(parts.uri.path())
        {
            return Err(Denial::AmbiguousPath);
        }
        self.find(&parts.method, parts.uri.path()).ok_or(Denial::Closed)
    }

    /// What requests with this method and path must have to be let in; `None` if the route is closed.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<&Requirement> {
        let Self::Rules { rules, otherwise, .. } = self else { return None };
        let found = rules.iter().find(|(rule, _)| rule.matches(method, path));
        Some(found.map_or(otherwise, |(_, requirement)| requirement))
    }

    /// Whether a rule depends on the method, so that a service must not take it from elsewhere.
    pub(super) fn fixes_method(&self) -> bool {
        matches!(self, Self::Rules { rules, .. } if rules.iter().any(|(rule, _)| !rule.methods.is_empty()))
    }

    pub(super) fn forward(&self) -> Forward {
        if let Self::Rules { forward, .. } = self { *forward } else { Forward::default() }
    }
}

impl Requirement {
    fn new(mode: Option<AuthMode>, scopes: Vec<String>) -> Self {
        Self { mode, scopes: scopes.into_iter().map(Into::into).collect() }
    }
}

impl Rule {
    fn matches(&self, method: &Method, path: &str) -> bool {
        let is_method = |own: &Method| own == method || (*own == Method::GET && *method == Method::HEAD);
        let is_under =
            |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        (self.methods.is_empty() || self.methods.iter().any(is_method))
            && (self.paths.is_empty() || self.paths.iter().any(|prefix| is_under(prefix)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn found<'a>(access: &'a Access, method: &str, path: &str) -> (Option<AuthMode>, Vec<&'a str>) {
        let requirement = access.find(&method.parse().expect("a method"), path).expect("rules");
        (requirement.mode, requirement.scopes.iter().map(|scope| &**scope).collect())
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let access = Access::new(Some(&json!({
            "mode": "required",
            "scopes": ["all"],
            "rules": [
                { "methods": ["GET"], "paths": ["/orders/public"], "mode": "optional" },
                { "paths": ["/orders/public/never", "/orders/admin"], "scopes": ["admin"] },
                { "methods": ["POST", "PUT"], "scopes": ["write"] },
                { "paths": ["/orders/login"], "mode": "none" },
            ],
        })));
        let required = Some(AuthMode::Required);
        for (method, path, expected) in [
            ("GET", "/orders/public", (Some(AuthMode::Optional), vec![])),
            ("HEAD", "/orders/public/1", (Some(AuthMode::Optional), vec![])),
            ("GET", "/orders/public/never", (Some(AuthMode::Optional), vec![])),
            ("GET", "/orders/publicity", (required, vec!["all"])),
            ("get", "/orders/public", (required, vec!["all"])),
            ("OPTIONS", "/orders/public", (required, vec!["all"])),
            ("DELETE", "/orders/admin/", (required, vec!["admin"])),
            ("POST", "/orders/admin", (required, vec!["admin"])),
            ("POST", "/orders/public", (required, vec!["write"])),
            ("POST", "/orders/login", (required, vec!["write"])),
            ("DELETE", "/orders/login", (Some(AuthMode::None), vec![])),
            ("GET", "/orders", (required, vec!["all"])),
        ] {
            assert_eq!(found(&access, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_rule_with_scopes_does_not_inherit_an_open_mode() {
        for (mode, plain, scoped) in [
            (json!("none"), Some(AuthMode::None), None),
            (json!("optional"), Some(AuthMode::Optional), None),
            (json!("required"), Some(AuthMode::Required), Some(AuthMode::Required)),
            (json!(null), None, None),
        ] {
            let rules = json!([{ "methods": ["POST"], "scopes": ["a"] }, { "methods": ["PUT"] }]);
            let access = Access::new(Some(&json!({ "mode": mode, "rules": rules })));
            assert_eq!(found(&access, "PUT", "/").0, plain, "{mode}");
            assert_eq!(found(&access, "POST", "/").0, scoped, "{mode}");
            assert_eq!(found(&access, "GET", "/").0, plain, "{mode}");
        }
    }

    #[test]
    fn a_rule_for_the_root_matches_every_path() {
        let access = Access::new(Some(&json!({ "rules": [{ "paths": ["/"], "mode": "none" }] })));
        for path in ["/", "/a", "//", "/a/b"] {
            assert_eq!(found(&access, "GET", path).0, Some(AuthMode::None), "{path}");
        }
    }

    #[test]
    fn rules_that_are_not_understood_close_the_route() {
        assert_eq!(Access::new(None), Access::default());
        assert_eq!(Access::new(Some(&json!({}))), Access::default());
        for auth in [json!(1), json!([]), json!({ "mode": "no" }), json!({ "rules": [{ "claims": {} }] })] {
            let access = Access::new(Some(&auth));
            assert!(access.closed().is_some() && access.find(&Method::GET, "/").is_none(), "{auth}");
        }
    }
}
