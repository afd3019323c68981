//! `hedgerow up --auth`, `hedgerow token`, and addresses that others may reach.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use crate::sandbox::{GATEWAY, SERVICES, Sandbox, Up, failure, wait_until};

/// `hedgerow token` with the data of the sandbox.
fn token_command(sandbox: &Sandbox, arguments: &[&str]) -> Command {
    let mut command = Command::new(sandbox.path("hedgerow"));
    command.arg("token").args(arguments).env("HEDGEROW_DATA_DIR", sandbox.path("data"));
    command
}

fn token(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = token_command(sandbox, arguments).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().trim_end().to_owned()
}

fn with_auth(sandbox: &Sandbox) -> Command {
    let mut command = sandbox.up_command();
    command.arg("--auth");
    command
}

/// The output of a shell script.
fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a member of a JSON document that is a string.
fn member(document: &str, name: &str) -> String {
    let (_, rest) = document.split_once(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("{name}: {document}"));
    rest.split_once('"').unwrap().0.to_owned()
}

/// With the services that were built last.
#[test]
fn the_printed_lines_log_in_and_an_ended_session_is_refused() {
    let sandbox = Sandbox::new();
    for service in [&SERVICES[..], &[GATEWAY]].concat() {
        sandbox.use_binary(service);
    }
    let up = Up::run_until(&mut with_auth(&sandbox), "Log in as an administrator");
    let mut lines = Vec::new();
    loop {
        let line = up.wait_for_line("");
        if line == "Try:" {
            break;
        }
        lines.extend(line.starts_with("  ").then_some(line));
    }
    assert!((1..=3).contains(&lines.len()), "{lines:?}");
    let me = shell(&lines.join("\n"));
    assert!(me.contains(r#""roles":["admin"]"#), "{me}");

    let base = format!("http://{}", sandbox.address(8080));
    let admin = token(&sandbox, &["--admin"]);
    let curl = |token: &str, rest: &str| {
        shell(&format!("curl -sS -H 'authorization: Bearer {token}' -H 'content-type: application/json' {rest}"))
    };
    assert!(shell(&format!("curl -sS -o /dev/null -w '%{{http_code}}' {base}/users")).contains("401"));
    let user = curl(&admin, &format!(r#"{base}/users -d '{{"name": "Ada", "email": "ada@example.com"}}'"#));
    let password =
        format!(r#"-X PUT {base}/users/{}/password -d '{{"new": "a tall heron waits"}}'"#, member(&user, "id"));
    assert_eq!(curl(&admin, &password), "");
    let login = r#"-d '{"email": "ada@example.com", "password": "a tall heron waits"}'"#;
    let mut response = String::new();
    wait_until("users has made its first key", || {
        response = shell(&format!("curl -sS {base}/auth/login -H 'content-type: application/json' {login}"));
        !response.contains(r#""status":503"#)
    });
    let access = member(&response, "access_token");
    // Inventory does not know about sessions, so only the gateway can refuse the token.
    let read = format!("{base}/inventory/product_123");
    assert!(curl(&access, &read).contains("stock"));
    let session = member(&curl(&access, &format!("{base}/auth/me")), "sid");
    assert_eq!(curl(&access, &format!("-X DELETE {base}/auth/sessions/{session}")), "");
    wait_until("the gateway refuses the token", || curl(&access, &read).contains(r#""reason":"revoked""#));
}

#[test]
fn secrets_are_private_and_survive_a_restart() {
    let sandbox = Sandbox::new();
    let up = Up::run(&mut with_auth(&sandbox));
    let folder = sandbox.path("data/identity");
    let files =
        ["signing-key.der", "kek", "jwks.json", "issuers.json", "tokens/users/inventory", "tokens/gateway/users"];
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in files {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    for name in ["", "tokens", "tokens/users", "tokens/gateway"] {
        assert_eq!(mode(&folder.join(name)), 0o700, "{name}");
    }
    let path = |file: &str| Some(folder.join(file).to_str().unwrap().to_owned());
    assert_eq!(sandbox.given("users", "AUTH_TOKEN_DIR"), path("tokens/users"));
    assert_eq!(sandbox.given(GATEWAY, "AUTH_REVOKED_TOKEN_FILE"), path("tokens/gateway/users"));
    let revoked = format!("http://{}/auth/revoked", sandbox.address(8081));
    assert_eq!(sandbox.given(GATEWAY, "AUTH_REVOKED_URL"), Some(revoked));
    let callers = ["gateway", "users"].map(|name| format!("system:serviceaccount:default:{name}")).join(",");
    assert_eq!(sandbox.given("inventory", "AUTH_ALLOW_FROM"), Some(callers));

    let read = || files[..3].iter().map(|file| fs::read(folder.join(file)).unwrap()).collect::<Vec<_>>();
    let before = read();
    up.end(Signal::SIGTERM);
    let _up = Up::run(&mut with_auth(&sandbox));
    assert!(read() == before, "the keys have changed");
}

#[test]
fn tokens_of_services_are_renewed() {
    let sandbox = Sandbox::new();
    let _up = Up::run(with_auth(&sandbox).env("HEDGEROW_TOKEN_LIFETIME", "2s"));
    for file in ["users/inventory", "gateway/users"] {
        let path = sandbox.path("data/identity/tokens").join(file);
        let first = fs::read(&path).unwrap();
        wait_until("the token is renewed", || fs::read(&path).unwrap() != first);
    }
}

#[test]
fn a_token_needs_a_key_and_one_holder() {
    let sandbox = Sandbox::new();
    let said = failure(&mut token_command(&sandbox, &["--admin"]));
    let folder = sandbox.path("data/identity");
    let expected = format!(
        "hedgerow: no key in {}: run `hedgerow up --auth` with this data folder first, or name another one with \
         --data-dir\n",
        folder.display()
    );
    assert_eq!(said, expected);
    assert!(!sandbox.path("data").exists());
    for arguments in [
        &[][..],
        &["--admin", "--service", "users"],
        &["--admin", "--for", "inventory"],
        &["--scope", "users:read", "--for", "inventory"],
        &["--for", "inventory"],
        &["--scope", "two scopes"],
        &["--service", "not/a/name"],
    ] {
        let output = token_command(&sandbox, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }

    Up::run(&mut with_auth(&sandbox)).end(Signal::SIGTERM);
    let holders: [&[&str]; 3] =
        [&["--admin"], &["--scope", "users:read"], &["--service", "users", "--for", "inventory"]];
    for arguments in holders {
        assert_eq!(token(&sandbox, arguments).split('.').count(), 3, "{arguments:?}");
    }
}

#[test]
fn an_address_beyond_loopback_needs_a_mode() {
    let sandbox = Sandbox::new();
    let output = sandbox.up_command().args(["--users-addr", "0.0.0.0:8081"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "hedgerow: --users-addr (USERS_ADDR) is 0.0.0.0:8081, which others may reach, and requests need no token: add \
         --auth, or set AUTH to required (with AUTH_ISSUERS) or to open (to let everyone do everything)\n"
    );
    assert!(!sandbox.path("data").exists());
}
