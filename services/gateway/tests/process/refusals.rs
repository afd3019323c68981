//! Refused requests in the audit log.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
};

use embedded_postgres::with_pdeathsig;
use identity::sign::{SigningKey, key_set};
use serde_json::{Value, json};

#[test]
fn a_refusal_is_in_the_audit_log_without_the_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = directory.path().join("keys.json");
    let key = SigningKey::generate().expect("a key");
    std::fs::write(&keys, key_set([key.jwk()]).to_string()).expect("written");
    let issuers = json!([{ "issuer": "https://a.example", "jwks_url": format!("file://{}", keys.display()) }]);
    let mut command = with_pdeathsig("KILL", env!("CARGO_BIN_EXE_gateway"));
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command.envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0"), ("DRAIN_DELAY", "0s")]);
    command.env("ROUTES", "users:/users=http://127.0.0.1:1").env("AUTH_ISSUERS", issuers.to_string());
    let mut gateway = command.stdout(Stdio::piped()).spawn().expect("the gateway starts");
    let output = BufReader::new(gateway.stdout.take().expect("an output"));
    let mut lines = output.lines().map(|line| line.expect("a line"));
    let find = |lines: &mut dyn Iterator<Item = String>, is_it: &dyn Fn(&Value) -> bool| {
        let parsed = lines.map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
        parsed.into_iter().find(|line| is_it(line)).expect("a line")
    };
    let listening = find(&mut lines, &|line| line["message"] == "listening");
    let mut stream = TcpStream::connect(listening["http"].as_str().expect("an address")).expect("a connection");
    let head = "GET /users/1?secret=1 HTTP/1.1\r\nhost: a\r\nx-request-id: r1\r\nauthorization: Bearer not-a-token\r\n";
    stream.write_all(format!("{head}\r\n").as_bytes()).expect("sent");
    let mut response = [0; 12];
    stream.read_exact(&mut response).expect("a response");
    assert_eq!(&response, b"HTTP/1.1 401");

    let line = find(&mut lines, &|line| line["event"] == "refusal");
    for (name, value) in [
        ("target", json!("audit")),
        ("level", json!("INFO")),
        ("outcome", json!("invalid-token")),
        ("reason", json!("the token is invalid: malformed")),
        ("service", json!("users")),
        ("route", json!("/users")),
        ("address", json!("127.0.0.1")),
        ("request_id", json!("r1")),
        ("subject", json!("")),
        ("client", json!("")),
        ("omitted", json!(0)),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(!line.to_string().contains("not-a-token") && !line.to_string().contains("secret"), "{line}");
    gateway.kill().expect("killed");
    gateway.wait().expect("the gateway exits");
}
