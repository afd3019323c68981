//! The environment of a service: what the operator sets in a cluster, with the addresses of this machine.

use std::time::Duration;

use anyhow::bail;
use api::grpc_url_variable;
use serde_json::Value;

use crate::authentication::Authentication;
use crate::service::{Service, reachable};

/// How long requests in flight may take to finish after SIGTERM.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Variables, of which later ones replace earlier ones of the same name.
pub type Variables = Vec<(String, String)>;

/// Looks a variable up in the environment of this process.
pub fn inherited(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the variables of `service`, except `DATABASE_URL`. `authentication` says how it knows who calls it, unless
/// that is left to the environment. `on_terminal` says whether its output goes to a terminal; `inherited` looks a
/// variable up in the environment of this process, which all services inherit.
///
/// # Errors
/// Returns an error if a variable refers to a `Secret`, a `ConfigMap` or the pod, and is not set in the environment
/// either.
pub fn of(
    service: &Service,
    all: &[Service],
    authentication: Option<&Authentication>,
    on_terminal: bool,
    inherited: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Variables> {
    let spec = &service.manifest.spec;
    let mut variables = Variables::new();
    let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));

    for called in all.iter().filter(|other| spec.calls.iter().any(|name| name == other.name())) {
        if let Some(address) = called.grpc {
            set(&grpc_url_variable(called.name()), format!("http://{}", reachable(address)));
        }
    }
    if let Some(database) = &spec.database {
        set("DATABASE_POOL_SIZE", database.pool_size.to_string());
    }
    if service.is_gateway() {
        let routes: Vec<_> = all.iter().filter(|other| !other.paths().is_empty()).map(route).collect();
        set("ROUTES", routes.join(" "));
        set("ROUTE_AUTH", route_auth(all).to_string());
        // Access logs are JSON, for machines.
        if on_terminal && inherited("ACCESS_LOG").is_none() {
            set("ACCESS_LOG", "false".to_owned());
        }
    }
    set("HTTP_ADDR", service.http.to_string());
    if let Some(address) = service.grpc {
        set("GRPC_ADDR", address.to_string());
    }
    set("ADMIN_ADDR", service.admin.to_string());
    for name in ["AUTH_ISSUERS", "AUTH_KEK_FILE"] {
        if let Some(path) = inherited(name).as_deref().and_then(resolved) {
            set(name, path);
        }
    }
    if let Some(authentication) = authentication {
        variables.extend(authentication.variables(service, all, &inherited));
    }

    for entry in &spec.env {
        if let Some(source) = &entry.value_from {
            let optional = source
                .secret_key_ref
                .as_ref()
                .and_then(|key| key.optional)
                .or(source.config_map_key_ref.as_ref().and_then(|key| key.optional));
            if inherited(&entry.name).is_none() && optional != Some(true) {
                let (file, name) = (&service.manifest.file, service.name());
                bail!(
                    "{file}: Microservice {name}: spec.env takes {0} from the cluster: set the environment variable {0} instead",
                    entry.name
                );
            }
        } else {
            let value = expand(entry.value.as_deref().unwrap_or_default(), &variables);
            variables.push((entry.name.clone(), value));
        }
    }
    // These belong to this machine: `up` waits this long and no longer.
    variables.push(("DRAIN_DELAY".to_owned(), "0s".to_owned()));
    variables.push(("SHUTDOWN_TIMEOUT".to_owned(), format!("{}s", SHUTDOWN_TIMEOUT.as_secs())));
    Ok(variables)
}

/// The callees of `service` that are missing, for a warning.
pub fn missing_callees<'a>(service: &'a Service, all: &'a [Service]) -> impl Iterator<Item = &'a str> {
    let calls = service.manifest.spec.calls.iter().map(String::as_str);
    calls.filter(|name| !all.iter().any(|other| other.name() == *name && other.grpc.is_some()))
}

/// A service and its paths, in the form of `ROUTES`.
fn route(service: &Service) -> String {
    let (name, paths, http) = (service.name(), service.paths().join(","), reachable(service.http));
    let route = service.manifest.spec.route.as_ref();
    let grpc = service.grpc.filter(|_| route.is_some_and(|route| route.grpc));
    let grpc = grpc.map(|address| format!(",grpc://{}", reachable(address))).unwrap_or_default();
    let keys = route.iter().flat_map(|route| &route.idempotency_keys);
    let keys: String = keys.flat_map(|path| [",idempotency-keys:", path]).collect();
    format!("{name}:{paths}=http://{http}{grpc}{keys}")
}

/// Who may send which requests to each service with rules, in the form of `ROUTE_AUTH`.
fn route_auth(all: &[Service]) -> Value {
    let routes = all.iter().filter_map(|service| Some((service.name(), service.manifest.spec.route.as_ref()?)));
    routes.filter_map(|(name, route)| Some((name.to_owned(), route.auth.clone()?))).collect()
}

/// The absolute path that a variable of the user refers to: services run in other folders. `None` if it is no path, but
/// a list of issuers.
fn resolved(text: &str) -> Option<String> {
    let text = text.trim();
    let path = text.strip_prefix('@').unwrap_or(text);
    if path.is_empty() || path.starts_with('[') {
        return None;
    }
    std::path::absolute(path).ok()?.into_os_string().into_string().ok()
}

/// Replaces `$(NAME)` by the value of a variable that is already defined, as Kubernetes does; `$$` is a dollar sign.
fn expand(text: &str, variables: &Variables) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded += &rest[..dollar];
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|reference| reference.split_once(')')) {
            match variables.iter().rfind(|(known, _)| known == name) {
                Some((_, value)) => expanded += value,
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::assign;
    use crate::service::GATEWAY;
    use crate::service::tests::manifest;

    fn value<'a>(variables: &'a Variables, name: &str) -> Option<&'a str> {
        variables.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn services() -> Vec<Service> {
        let env = "env: [{name: A, value: a}, {name: B, value: \"$(A)-$(HTTP_ADDR)-$$(A)-$(NONE)-$\"}, {name: EMPTY}]";
        assign(vec![
            manifest(
                "my-stock",
                &[],
                Some(2),
                "ports: {grpc: 50051}, route: {paths: [/x, /y], grpc: true, idempotencyKeys: [/y]}",
            ),
            manifest(
                "users",
                &["my-stock", "away"],
                Some(1),
                &format!("route: {{paths: [/users]}}, database: {{poolSize: 5}}, {env}"),
            ),
            manifest(GATEWAY, &[], Some(0), ""),
        ])
        .unwrap()
    }

    fn of_service(index: usize, on_terminal: bool, inherited: Option<&str>) -> Variables {
        let all = services();
        of(&all[index], &all, None, on_terminal, |name| inherited.filter(|known| *known == name).map(str::to_owned))
            .unwrap()
    }

    #[test]
    fn a_caller_gets_the_urls_of_its_callees() {
        let variables = of_service(1, false, None);
        assert_eq!(value(&variables, "MY_STOCK_GRPC_URL"), Some("http://127.0.0.1:50052"));
        assert_eq!(value(&variables, "AWAY_GRPC_URL"), None);
        assert_eq!(value(&variables, "DATABASE_POOL_SIZE"), Some("5"));
        let all = services();
        assert_eq!(missing_callees(&all[1], &all).collect::<Vec<_>>(), ["away"]);
    }

    #[test]
    fn the_gateway_gets_all_routes_and_what_they_declare() {
        let variables = of_service(2, false, None);
        let stock = "my-stock:/x,/y=http://127.0.0.1:8082,grpc://127.0.0.1:50052,idempotency-keys:/y";
        let expected = format!("{stock} users:/users=http://127.0.0.1:8081");
        assert_eq!(value(&variables, "ROUTES"), Some(&*expected));
    }

    #[test]
    fn the_gateway_gets_the_rules_of_all_routes() {
        let rules = "{mode: optional, rules: [{methods: [POST], scopes: ['x:write']}]}";
        let all = assign(vec![
            manifest("a", &[], None, &format!("route: {{paths: [/a], auth: {rules}}}")),
            manifest("b", &[], None, "route: {paths: [/b]}"),
            manifest(GATEWAY, &[], None, ""),
        ])
        .unwrap();
        let variables = of(&all[2], &all, None, false, |_| None).unwrap();
        let expected =
            r#"{"a":{"forward":"token","mode":"optional","rules":[{"methods":["POST"],"scopes":["x:write"]}]}}"#;
        assert_eq!(value(&variables, "ROUTE_AUTH"), Some(expected));
        // The user's own would name services that do not exist here.
        assert_eq!(value(&of_service(2, false, Some("ROUTE_AUTH")), "ROUTE_AUTH"), Some("{}"));
        assert_eq!(value(&of_service(1, false, None), "ROUTE_AUTH"), None);
    }

    #[test]
    fn services_in_other_folders_find_the_files_of_the_user() {
        let here = std::env::current_dir().unwrap().into_os_string().into_string().unwrap();
        for (text, expected) in [
            ("issuers.json", Some(format!("{here}/issuers.json"))),
            (" @../issuers.json\n", Some(format!("{here}/../issuers.json"))),
            ("/etc/issuers.json", Some("/etc/issuers.json".to_owned())),
            (r#"[{"issuer": "https://login.example"}]"#, None),
            (" [] ", None),
            ("", None),
        ] {
            assert_eq!(resolved(text), expected, "{text:?}");
        }
        let all = services();
        let set = |name: &str| (name == "AUTH_ISSUERS").then(|| "issuers.json".to_owned());
        let variables = of(&all[0], &all, None, false, set).unwrap();
        assert_eq!(value(&variables, "AUTH_ISSUERS"), Some(&*format!("{here}/issuers.json")));
        assert_eq!(value(&variables, "AUTH"), None);
        let authentication = Authentication::new("/data".as_ref(), &all, |_| None).unwrap();
        let variables = of(&all[0], &all, Some(&authentication), false, set).unwrap();
        assert_eq!(value(&variables, "AUTH_ISSUERS"), Some("/data/identity/issuers.json"));
    }

    #[test]
    fn an_object_may_override_how_it_verifies_tokens() {
        let all = assign(vec![manifest("a", &[], None, "env: [{name: AUTH, value: open}]")]).unwrap();
        let authentication = Authentication::new("/data".as_ref(), &all, |_| None).unwrap();
        let variables = of(&all[0], &all, Some(&authentication), false, |_| None).unwrap();
        assert_eq!(value(&variables, "AUTH"), Some("open"));
    }

    #[test]
    fn a_gateway_on_a_terminal_writes_no_access_log_by_default() {
        assert_eq!(value(&of_service(2, true, None), "ACCESS_LOG"), Some("false"));
        assert_eq!(value(&of_service(2, true, Some("ACCESS_LOG")), "ACCESS_LOG"), None);
        assert_eq!(value(&of_service(2, false, None), "ACCESS_LOG"), None);
        assert_eq!(value(&of_service(1, true, None), "ACCESS_LOG"), None);
    }

    #[test]
    fn values_of_env_refer_to_other_variables() {
        let variables = of_service(1, false, None);
        assert_eq!(value(&variables, "B"), Some("a-127.0.0.1:8081-$(A)-$(NONE)-$"));
        assert_eq!(value(&variables, "EMPTY"), Some(""));
    }

    #[test]
    fn a_variable_from_a_secret_must_be_in_the_environment() {
        let key = |more| format!("env: [{{name: KEY, valueFrom: {{secretKeyRef: {{name: s, key: k{more}}}}}}}]");
        let run = |spec: &str, inherited: bool| {
            let all = assign(vec![manifest("a", &[], None, spec)]).unwrap();
            of(&all[0], &all, None, false, |_| inherited.then(String::new)).map_err(|error| error.to_string())
        };
        assert_eq!(
            run(&key(""), false).unwrap_err(),
            "a.yaml: Microservice a: spec.env takes KEY from the cluster: set the environment variable KEY instead"
        );
        assert_eq!(value(&run(&key(""), true).unwrap(), "KEY"), None);
        assert!(run(&key(", optional: true"), false).is_ok());
    }
}
