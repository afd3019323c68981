//! What the user sees once everything runs: where it is, and what to try.

use embedded_postgres::{SUPERUSER, Server};

use crate::service::{Service, reachable};

/// Addresses and first requests.
pub fn text(services: &[Service], server: &Server) -> String {
    let socket = shell(&server.socket_dir().to_string_lossy());
    let mut lines = vec![format!("\nHedgerow is up; Ctrl-C stops it. Data: {}\n", server.data_dir().path().display())];
    let (front, behind): (Vec<_>, Vec<_>) = services.iter().partition(|service| service.row.is_gateway());
    for service in front.iter().chain(&behind) {
        let name = service.row.name;
        let (http, admin) = (reachable(service.http), reachable(service.admin));
        lines.push(format!("  {name:<10} API      http://{http}"));
        lines.push(format!("  {:<10} docs     http://{http}/docs", ""));
        if let Some(grpc) = service.grpc {
            lines.push(format!("  {:<10} gRPC     {}", "", reachable(grpc)));
        }
        lines.push(format!("  {:<10} metrics  http://{admin}/metrics", ""));
        if !service.row.is_gateway() {
            lines.push(format!("  {:<10} database psql -h {socket} -U {SUPERUSER} {name}", ""));
        }
    }
    lines.push("\nTry:\n".to_owned());
    for gateway in front {
        for (path, body) in behind.iter().flat_map(|service| service.row.examples) {
            let url = format!("http://{}{path}", reachable(gateway.http));
            lines.push(format!("  {}", curl(&url, *body)));
        }
    }
    lines.join("\n") + "\n\n"
}

fn curl(url: &str, body: Option<&str>) -> String {
    let body = body.map(|body| format!(" -H 'content-type: application/json' -d {}", shell(body)));
    format!("curl -sS {url}{}", body.unwrap_or_default())
}

/// One word of a shell's command.
fn shell(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte);
    if word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_pasted_into_a_shell() {
        assert_eq!(
            curl("http://h:1/p", Some(r#"{"a": "it's"}"#)),
            r#"curl -sS http://h:1/p -H 'content-type: application/json' -d '{"a": "it'\''s"}'"#
        );
        assert_eq!(shell("/a/b-c_1.d"), "/a/b-c_1.d");
        assert_eq!(shell("/a b"), "'/a b'");
    }
}
