//! What the user sees once everything runs: the addresses, and requests to try.

use std::borrow::Cow;

use embedded_postgres::{SUPERUSER, Server};

use crate::manifest::Example;
use crate::service::{Service, reachable};

/// Addresses and first requests. The services are in the order in which they start, so callees come before callers.
pub fn text(services: &[Service], server: &Server) -> String {
    let socket = server.socket_dir().to_string_lossy();
    let socket = quoted(&socket);
    let mut lines = vec![format!("\nHedgerow is up; Ctrl-C stops it. Data: {}\n", server.data_dir().path().display())];
    let (gateways, others): (Vec<_>, Vec<_>) = services.iter().partition(|service| service.is_gateway());
    let width = services.iter().map(|service| service.name().len()).max().unwrap_or_default();
    for service in gateways.iter().chain(&others) {
        let name = service.name();
        let (http, admin) = (reachable(service.http), reachable(service.admin));
        lines.push(format!("  {name:<width$} API      http://{http}"));
        // A service in another language need not serve this page; the gateway's shows its API anyway.
        if service.manifest.command.is_none() {
            lines.push(format!("  {:<width$} docs     http://{http}/docs", ""));
        }
        if let Some(grpc) = service.grpc {
            lines.push(format!("  {:<width$} gRPC     {}", "", reachable(grpc)));
        }
        lines.push(format!("  {:<width$} metrics  http://{admin}/metrics", ""));
        if let Some(database) = service.database() {
            lines.push(format!("  {:<width$} database psql -h {socket} -U {SUPERUSER} {database}", ""));
        }
    }
    let examples = others.iter().flat_map(|service| {
        let gateway = gateways.first().filter(|_| !service.paths().is_empty());
        let address = reachable(gateway.map_or(service.http, |gateway| gateway.http));
        service.manifest.examples.iter().map(move |example| curl(&format!("http://{address}"), example))
    });
    let examples: Vec<_> = examples.map(|line| format!("  {line}")).collect();
    if !examples.is_empty() {
        lines.push("\nTry:\n".to_owned());
        lines.extend(examples);
    }
    lines.join("\n") + "\n\n"
}

fn curl(base: &str, example: &Example) -> String {
    let Example { method, path, body } = example;
    let implied = if body.is_some() { "POST" } else { "GET" };
    let method = if method == implied { String::new() } else { format!(" -X {method}") };
    let body = body.as_ref().map(|body| format!(" -H 'content-type: application/json' -d {}", quoted(body)));
    format!("curl -sS{method} {}{}", quoted(&format!("{base}{path}")), body.unwrap_or_default())
}

/// One word of a shell command.
fn quoted(word: &str) -> Cow<'_, str> {
    shlex::try_quote(word).unwrap_or(Cow::Borrowed(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_can_be_pasted_into_a_shell() {
        for (method, body, expected) in [
            ("GET", None, "curl -sS http://h:1/p"),
            ("DELETE", None, "curl -sS -X DELETE http://h:1/p"),
            ("POST", Some(r#"{"a": 1}"#), r#"curl -sS http://h:1/p -H 'content-type: application/json' -d '{"a": 1}'"#),
            ("PUT", Some("1"), "curl -sS -X PUT http://h:1/p -H 'content-type: application/json' -d 1"),
        ] {
            let example = Example { method: method.to_owned(), path: "/p".to_owned(), body: body.map(str::to_owned) };
            assert_eq!(curl("http://h:1", &example), expected);
        }
        for word in [r#"{"a": "it's"}"#, "/p?a=1&b=$x", "a b", "/a/b-c_1.d"] {
            assert_eq!(shlex::split(&quoted(word)).unwrap(), [word]);
        }
    }
}
