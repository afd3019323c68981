//! How services know who calls them under `up --auth`: the same variables as in a cluster, with files of this machine.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use api::identity::{ALLOW_FROM, TOKEN_DIR, allow_from};

use crate::environment::Variables;
use crate::service::{Service, reachable};

/// The service that issues the tokens of users, as in the chart.
const ISSUER: &str = "users";

/// What stands for the namespace in the subjects of services.
pub const NAMESPACE: &str = "default";

/// The private folder in the data folder, and what is in it.
pub const FOLDER: &str = "identity";
pub const ISSUERS_FILE: &str = "issuers.json";
pub const JWKS_FILE: &str = "jwks.json";
pub const KEK_FILE: &str = "kek";
pub const TOKENS: &str = "tokens";

/// Whom the services of a run trust, and where they find the files.
#[derive(Debug)]
pub struct Authentication {
    /// The path of the private folder.
    folder: String,
    /// The service that issues the tokens of users, if it is run.
    pub issuer: Option<Issuer>,
}

/// The service that issues the tokens of users.
#[derive(Debug)]
pub struct Issuer {
    service: String,
    /// The `iss` of its tokens: the URL under which clients reach it.
    pub url: String,
    http: SocketAddr,
}

impl Issuer {
    /// The URL of one of its paths, without a detour through the gateway.
    pub fn internal_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }
}

impl Authentication {
    /// Plans it for `services`. `inherited` looks a variable up in the environment of this process: the URL of the
    /// issuer can be set there, for clients on other machines.
    pub fn new(data: &Path, services: &[Service], inherited: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let folder = data.join(FOLDER);
        let folder = folder.to_str().with_context(|| format!("the path {} is not UTF-8", folder.display()))?.to_owned();
        let issuer = issuer(services).map(|(service, local)| Issuer {
            service: service.name().to_owned(),
            url: inherited("AUTH_ISSUER_URL").unwrap_or(local),
            http: reachable(service.http),
        });
        Ok(Self { folder, issuer })
    }

    /// The path of a file of the private folder.
    pub fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.folder)
    }

    /// The path of the token by which a service proves to another who it is.
    fn token(&self, caller: &str, audience: &str) -> String {
        self.path(&format!("{TOKENS}/{caller}/{audience}"))
    }

    /// Those to whom a service proves who it is: whom it calls, and if it is the gateway also the issuer, which tells only
    /// services which sessions have ended.
    pub fn callees<'a>(&'a self, service: &'a Service) -> BTreeSet<&'a str> {
        let issuer = self.issuer.as_ref().filter(|_| service.is_gateway());
        let calls = service.manifest.spec.calls.iter().map(String::as_str);
        calls.chain(issuer.map(|issuer| &*issuer.service)).collect()
    }

    /// The variables of a service of `all`.
    pub fn variables(
        &self,
        service: &Service,
        all: &[Service],
        inherited: impl Fn(&str) -> Option<String>,
    ) -> Variables {
        let name = service.name();
        let callers = all.iter().filter(|other| other.manifest.spec.calls.iter().any(|callee| callee == name));
        let mut variables = vec![
            ("AUTH", "required".to_owned()),
            ("AUTH_ISSUERS", self.path(ISSUERS_FILE)),
            ("AUTH_AUDIENCE", name.to_owned()),
            (ALLOW_FROM, allow_from(NAMESPACE, &service.manifest.spec, callers.map(Service::name))),
        ];
        if !service.manifest.spec.calls.is_empty() {
            variables.push((TOKEN_DIR, self.path(&format!("{TOKENS}/{name}"))));
        }
        if let Some(issuer) = &self.issuer {
            if issuer.service == name {
                variables.push(("AUTH_ISSUER_URL", issuer.url.clone()));
                if inherited("AUTH_KEK_FILE").is_none() {
                    variables.push(("AUTH_KEK_FILE", self.path(KEK_FILE)));
                }
            } else if service.is_gateway() {
                variables.push(("AUTH_REVOKED_URL", issuer.internal_url("/auth/revoked")));
                variables.push(("AUTH_REVOKED_TOKEN_FILE", self.token(name, &issuer.service)));
            }
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// The service that issues the tokens of users, if it is run, and the URL under which clients on this machine reach it.
pub fn issuer(services: &[Service]) -> Option<(&Service, String)> {
    let issuer = services.iter().find(|service| service.name() == ISSUER)?;
    let gateway = services.iter().find(|service| service.is_gateway() && !issuer.paths().is_empty());
    Some((issuer, format!("http://{}", reachable(gateway.unwrap_or(issuer).http))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::assign;
    use crate::service::GATEWAY;
    use crate::service::tests::manifest;

    const DATA: &str = "/home/a b/data";

    fn services() -> Vec<Service> {
        assign(vec![
            manifest("inventory", &[], Some(2), "ports: {grpc: 50051}, route: {paths: [/inventory]}"),
            manifest("users", &["inventory"], Some(1), "route: {paths: [/users, /auth]}"),
            manifest("orders", &["inventory"], Some(3), "network: {allowFrom: [billing, {app: x}]}"),
            manifest(GATEWAY, &[], Some(0), "network: {allowFrom: [any]}"),
        ])
        .unwrap()
    }

    /// The variables of a service. The environment has `inherited`.
    fn variables(name: &str, inherited: &[(&str, &str)]) -> Vec<(String, String)> {
        let all = services();
        let look_up = |wanted: &str| {
            let known = inherited.iter().find(|(name, _)| *name == wanted);
            known.map(|(_, value)| (*value).to_owned())
        };
        let authentication = Authentication::new(Path::new(DATA), &all, look_up).unwrap();
        let service = all.iter().find(|service| service.name() == name).unwrap();
        authentication.variables(service, &all, look_up)
    }

    fn pairs(variables: &[(String, String)]) -> Vec<(&str, &str)> {
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn services_get_the_variables_that_the_operator_sets() {
        let account = |name: &str| format!("system:serviceaccount:default:{name}");
        let trust = |name: &'static str| {
            [("AUTH", "required"), ("AUTH_ISSUERS", "/home/a b/data/identity/issuers.json"), ("AUTH_AUDIENCE", name)]
        };
        let callers = ["gateway", "orders", "users"].map(account).join(",");
        let expected = [&trust("inventory")[..], &[("AUTH_ALLOW_FROM", &callers)]].concat();
        assert_eq!(pairs(&variables("inventory", &[])), expected);

        let gateway = account("gateway");
        let own = [
            ("AUTH_ALLOW_FROM", gateway.as_str()),
            ("AUTH_TOKEN_DIR", "/home/a b/data/identity/tokens/users"),
            ("AUTH_ISSUER_URL", "http://127.0.0.1:8080"),
            ("AUTH_KEK_FILE", "/home/a b/data/identity/kek"),
        ];
        assert_eq!(pairs(&variables("users", &[])), [&trust("users")[..], &own].concat());

        // It has no route.
        let billing = account("billing");
        let own = [("AUTH_ALLOW_FROM", billing.as_str()), ("AUTH_TOKEN_DIR", "/home/a b/data/identity/tokens/orders")];
        assert_eq!(pairs(&variables("orders", &[])), [&trust("orders")[..], &own].concat());

        let own = [
            ("AUTH_ALLOW_FROM", "any"),
            ("AUTH_REVOKED_URL", "http://127.0.0.1:8081/auth/revoked"),
            ("AUTH_REVOKED_TOKEN_FILE", "/home/a b/data/identity/tokens/gateway/users"),
        ];
        assert_eq!(pairs(&variables(GATEWAY, &[])), [&trust(GATEWAY)[..], &own].concat());
    }

    #[test]
    fn the_url_of_the_issuer_and_its_key_can_be_set() {
        let inherited = [("AUTH_ISSUER_URL", "https://shop.example"), ("AUTH_KEK_FILE", "/kek")];
        let variables = variables("users", &inherited);
        let variables = pairs(&variables);
        assert!(variables.contains(&("AUTH_ISSUER_URL", "https://shop.example")));
        assert!(!variables.iter().any(|(name, _)| *name == "AUTH_KEK_FILE"), "it is inherited");
    }

    #[test]
    fn clients_reach_the_issuer_through_the_gateway_if_there_is_one() {
        let url = |names: &[&str], spec: &str| {
            let all: Vec<_> = names.iter().map(|name| manifest(name, &[], None, spec)).collect();
            issuer(&assign(all).unwrap()).map(|(_, url)| url)
        };
        let route = "route: {paths: [/users]}";
        assert_eq!(url(&["users"], route).as_deref(), Some("http://127.0.0.1:8081"));
        assert_eq!(url(&["users", GATEWAY], route).as_deref(), Some("http://127.0.0.1:8082"));
        assert_eq!(url(&["users", GATEWAY], "").as_deref(), Some("http://127.0.0.1:8081"));
        assert_eq!(url(&["inventory", GATEWAY], ""), None);
    }
}
