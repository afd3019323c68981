//! What the user sees once everything runs: the addresses, and requests to try.

use std::borrow::Cow;
use std::env;
use std::path::Path;

use embedded_postgres::{SUPERUSER, Server};

use crate::authentication;
use crate::manifest::Example;
use crate::service::{Service, reachable};

/// Addresses and first requests. The services are in the order in which they start, so callees come before callers.
/// `with_token` says whether requests need a token; then the first lines to try get one.
pub fn text(services: &[Service], server: &Server, with_token: bool) -> String {
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
        service.manifest.examples.iter().map(move |example| curl(&format!("http://{address}"), example, with_token))
    });
    let examples: Vec<_> = examples.map(|line| format!("  {line}")).collect();
    if with_token {
        lines.push("\nRequests need a token. Log in as an administrator, for an hour:\n".to_owned());
        lines.extend(login(services, server.data_dir().path()).map(|line| format!("  {line}")));
    }
    if !examples.is_empty() {
        lines.push("\nTry:\n".to_owned());
        lines.extend(examples);
    }
    lines.join("\n") + "\n\n"
}

/// The commands that put a token of an administrator into the variable of [`BEARER`], and show whose it is.
fn login(services: &[Service], data: &Path) -> impl Iterator<Item = String> {
    let program = env::current_exe().unwrap_or_else(|_| "hedgerow".into());
    let [program, data] = [&program, data].map(|path| quoted(&path.to_string_lossy()).into_owned());
    let token = format!("TOKEN=$({program} token --admin --data-dir {data})");
    let issuer = authentication::issuer(services);
    let me = issuer.map(|(_, url)| format!("curl -sS {}{BEARER}", quoted(&format!("{url}/auth/me"))));
    [Some(token), me].into_iter().flatten()
}

/// The header with the token.
const BEARER: &str = " -H \"authorization: Bearer $TOKEN\"";

fn curl(base: &str, example: &Example, with_token: bool) -> String {
    let Example { method, path, body } = example;
    let implied = if body.is_some() { "POST" } else { "GET" };
    let method = if method == implied { String::new() } else { format!(" -X {method}") };
    let token = if with_token { BEARER } else { "" };
    let body = body.as_ref().map(|body| format!(" -H 'content-type: application/json' -d {}", quoted(body)));
    format!("curl -sS{method} {}{token}{}", quoted(&format!("{base}{path}")), body.unwrap_or_default())
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
            assert_eq!(curl("http://h:1", &example, false), expected);
            let (start, rest) = expected.split_once("/p").unwrap();
            let with_token = format!("{start}/p -H \"authorization: Bearer $TOKEN\"{rest}");
            assert_eq!(curl("http://h:1", &example, true), with_token);
        }
        for word in [r#"{"a": "it's"}"#, "/p?a=1&b=$x", "a b", "/a/b-c_1.d"] {
            assert_eq!(shlex::split(&quoted(word)).unwrap(), [word]);
        }
    }
}
