//! All services are reached through the gateway, which is none of them.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use nix::sys::signal::Signal;

use crate::sandbox::{GATEWAY, Sandbox, send, wait_until};

#[test]
fn the_gateway_is_told_where_all_paths_lead_and_has_no_database() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.up_command();
    let _up = crate::sandbox::Up::run(command.env("ROUTES", "elsewhere").env("DATABASE_URL", "of the user's"));
    let [users, inventory] = [8081, 8082].map(|port| sandbox.address(port));
    let routes = format!("users:/users=http://{users} inventory:/inventory,/reservations=http://{inventory}");
    assert_eq!(sandbox.given(GATEWAY, "ROUTES").unwrap(), routes);
    assert_eq!(sandbox.given(GATEWAY, "HTTP_ADDR").unwrap(), sandbox.address(8080));
    assert_eq!(sandbox.given(GATEWAY, "ADMIN_ADDR").unwrap(), sandbox.address(9093));
    assert_eq!(sandbox.given(GATEWAY, "DATABASE_URL"), None);
    assert!(sandbox.noted(GATEWAY, "migrating").is_empty());
    assert_eq!(sandbox.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'gateway'"), "0");
}

#[test]
fn the_examples_go_through_the_gateway() {
    let sandbox = Sandbox::new();
    let up = crate::sandbox::Up::run_until(&mut sandbox.up_command(), "Try:");
    let address = sandbox.address(8080);
    assert_eq!(up.wait_for_line("/users -H").split(' ').nth(4), Some(&*format!("http://{address}/users")));
    assert!(up.wait_for_line("/inventory/product_123 -H").contains(&address));
}

/// With the program that was last built.
#[test]
fn a_request_through_the_gateway_reaches_its_service() {
    let sandbox = Sandbox::new();
    let program = Path::new(env!("CARGO_BIN_EXE_hedgerow")).with_file_name(GATEWAY);
    assert!(program.is_file(), "there is no program {}: build it with `cargo build`", program.display());
    fs::remove_file(sandbox.path(GATEWAY)).unwrap();
    fs::hard_link(&program, sandbox.path(GATEWAY))
        .or_else(|_| fs::copy(&program, sandbox.path(GATEWAY)).map(drop))
        .unwrap();
    let up = sandbox.up();
    // What a stand-in has is its name.
    assert_eq!(get(&sandbox, "/users").lines().last(), Some("users"));
    assert_eq!(get(&sandbox, "/reservations/1").lines().last(), Some("inventory"));
    assert!(get(&sandbox, "/elsewhere").starts_with("HTTP/1.1 404"));

    send(sandbox.running(GATEWAY), Signal::SIGKILL);
    up.wait_for_line("gateway ended (signal: 9 (SIGKILL)); starting it again");
    wait_until("the gateway answers again", || {
        TcpStream::connect(sandbox.address(8080)).is_ok() && get(&sandbox, "/users").lines().last() == Some("users")
    });
}

fn get(sandbox: &Sandbox, path: &str) -> String {
    let mut stream = TcpStream::connect(sandbox.address(8080)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: hedgerow\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
