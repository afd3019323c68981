//! Errors that are reported in one line before anything is started.

use std::net::TcpListener;

use crate::sandbox::{Sandbox, failure};

#[test]
fn an_address_in_use_is_named_with_its_flag() {
    let sandbox = Sandbox::new();
    let address = sandbox.address(9092);
    let _taken = TcpListener::bind(&address).unwrap();
    let said = failure(&mut sandbox.up_command());
    let expected = format!(
        "hedgerow: inventory cannot listen on {address} (Address already in use (os error 98)): \
         choose another address with --inventory-admin-addr or INVENTORY_ADMIN_ADDR\n"
    );
    assert_eq!(said, expected);
    assert!(!sandbox.path("data/pgdata").exists());
}

#[test]
fn one_address_for_two_services_is_refused() {
    let sandbox = Sandbox::new();
    let address = sandbox.address(8082);
    let said = failure(sandbox.up_command().args(["--users-addr", &address]));
    let expected = format!(
        "hedgerow: users cannot listen on {address} (inventory uses it too): \
         choose another address with --users-addr or USERS_ADDR\n"
    );
    assert_eq!(said, expected);
}

#[test]
fn an_invalid_address_is_refused_with_its_flag() {
    let sandbox = Sandbox::new();
    let said = failure(sandbox.up_command().env("USERS_ADDR", "8081"));
    assert!(said.contains("invalid value '8081' for '--users-addr <ADDRESS>'"), "{said}");
}

#[test]
fn a_missing_binary_is_named() {
    let sandbox = Sandbox::new();
    std::fs::remove_file(sandbox.path("inventory")).unwrap();
    let said = failure(&mut sandbox.up_command());
    let path = sandbox.path("inventory");
    assert_eq!(
        said,
        format!("hedgerow: {} not found: build it with `cargo build --package inventory`\n", path.display())
    );
}

#[test]
fn a_second_run_on_the_same_data_names_the_first() {
    let sandbox = Sandbox::new();
    let up = sandbox.up();
    let said = failure(&mut sandbox.up_command());
    let data = sandbox.path("data");
    assert_eq!(said, format!("hedgerow: {} is in use by process {}\n", data.display(), up.pid()));
}

#[test]
fn two_runs_with_different_data_do_not_interfere() {
    let sandboxes = [Sandbox::new(), Sandbox::new()];
    let _both = sandboxes.each_ref().map(Sandbox::up);
    for sandbox in &sandboxes {
        assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "1");
    }
}
