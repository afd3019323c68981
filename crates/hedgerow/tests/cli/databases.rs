//! Each service has a database of its own.

use crate::sandbox::{SERVICES, Sandbox, psql};

#[test]
fn a_role_can_open_its_own_database_only() {
    let sandbox = Sandbox::new();
    let _up = sandbox.up();
    for own in SERVICES {
        let url = sandbox.given(own, "DATABASE_URL").unwrap();
        assert_eq!(psql(&url, "SELECT current_user, current_database()").unwrap(), format!("{own}|{own}"));
        psql(&url, "CREATE SCHEMA of_its_own; ALTER SCHEMA public RENAME TO its_too").unwrap();
        let rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = current_user";
        assert_eq!(psql(&url, rights).unwrap(), "f");
        for other in ["users", "inventory", "postgres", "template1"].into_iter().filter(|name| *name != own) {
            let refusal = psql(&url.replace(&format!("/{own}?"), &format!("/{other}?")), "SELECT 1").unwrap_err();
            assert!(refusal.contains(&format!("permission denied for database \"{other}\"")), "{refusal}");
        }
        let refusal = psql(&url.replace(&format!("//{own}:"), &format!("//{own}:x")), "SELECT 1").unwrap_err();
        assert!(refusal.contains("password authentication failed"), "{refusal}");
    }
    assert_eq!(sandbox.sql("postgres", "SHOW listen_addresses"), "");
}

#[test]
fn a_service_gets_the_environment_of_its_contract() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.up_command();
    let _up =
        crate::sandbox::Up::run(command.env("PGHOST", "nowhere.invalid").env("PGPORT", "1").env("LOG_LEVEL", "debug"));
    let given = |variable| sandbox.given("inventory", variable).unwrap();
    assert_eq!(given("HTTP_ADDR"), sandbox.address(8082));
    assert_eq!(given("GRPC_ADDR"), sandbox.address(50052));
    assert_eq!(given("ADMIN_ADDR"), sandbox.address(9092));
    assert_eq!(sandbox.given("users", "INVENTORY_GRPC_URL").unwrap(), format!("http://{}", sandbox.address(50052)));
    assert_eq!(given("DATABASE_POOL_SIZE"), "8");
    assert_eq!(given("DRAIN_DELAY"), "0s");
    assert_eq!(given("SHUTDOWN_TIMEOUT"), "5s");
    assert_eq!(given("LOG_LEVEL"), "debug");
}
