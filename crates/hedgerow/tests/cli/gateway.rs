//! All services are reachable through the gateway.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use nix::sys::signal::Signal;

use crate::sandbox::{GATEWAY, Sandbox, send, wait_until};

#[test]
fn the_gateway_gets_all_routes_and_no_database() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.up_command();
    let _up = crate::sandbox::Up::run(command.env("ROUTES", "elsewhere").env("DATABASE_URL", "of the user's"));
    let [users, inventory] = [8081, 8082].map(|port| sandbox.address(port));
    let keys = "idempotency-keys:/inventory,idempotency-keys:/reservations";
    let issuer = ["jwks.json", "oauth-authorization-server", "openid-configuration"];
    let issuer = issuer.map(|document| format!("/.well-known/{document}")).join(",");
    let routes = format!(
        "inventory:/inventory,/reservations=http://{inventory},{keys} \
         users:/users,/auth,/oauth2,{issuer}=http://{users},idempotency-keys:/users"
    );
    assert_eq!(sandbox.given(GATEWAY, "ROUTES").unwrap(), routes);
    assert_eq!(sandbox.given(GATEWAY, "HTTP_ADDR").unwrap(), sandbox.address(8080));
    assert_eq!(sandbox.given(GATEWAY, "ADMIN_ADDR").unwrap(), sandbox.address(9093));
    assert_eq!(sandbox.given(GATEWAY, "DATABASE_URL"), None);
    assert!(sandbox.noted(GATEWAY, "migrating").is_empty());
    assert_eq!(sandbox.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'gateway'"), "0");
}

#[test]
fn the_examples_use_the_gateway() {
    let sandbox = Sandbox::new();
    let up = crate::sandbox::Up::run_until(&mut sandbox.up_command(), "Try:");
    let address = sandbox.address(8080);
    // A caller's examples come after those of its callees, on whose data they depend.
    assert!(up.wait_for_line("/inventory/product_123 -H").contains(&address));
    assert_eq!(up.wait_for_line("/users -H").trim().split(' ').nth(2), Some(&*format!("http://{address}/users")));
}

/// With the gateway that was built last.
#[test]
fn a_request_through_the_gateway_reaches_its_service() {
    let sandbox = Sandbox::new();
    sandbox.use_binary(GATEWAY);
    let up = sandbox.up();
    // A stand-in returns its name.
    assert_eq!(get(&sandbox, "/users").lines().last(), Some("users"));
    assert_eq!(get(&sandbox, "/reservations/1").lines().last(), Some("inventory"));
    assert!(get(&sandbox, "/elsewhere").starts_with("HTTP/1.1 404"));

    send(sandbox.running(GATEWAY), Signal::SIGKILL);
    up.wait_for_line("gateway exited (signal: 9 (SIGKILL)); restarting it");
    wait_until("the gateway responds again", || {
        TcpStream::connect(sandbox.address(8080)).is_ok() && get(&sandbox, "/users").lines().last() == Some("users")
    });
}

fn get(sandbox: &Sandbox, path: &str) -> String {
    let mut stream = TcpStream::connect(sandbox.address(8080)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: hedgerow\r\nconnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}
