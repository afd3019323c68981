//! Arguments and environment: what is wrong with them is said at start, in one line, without secrets.

use sqlx::{Connection, PgConnection, PgPool};
use test_support::process::{Finished, Program};

use crate::service::{Postgres, program, serve, url};

/// A database that is never reached.
const URL: &str = "postgres://inventory:hunter2@127.0.0.1:1/inventory";

/// Checks that the process ended for a mistake of its caller's, and said so in one line that has `name`.
fn refused(end: &Finished, name: &str) {
    assert_eq!(end.code(), Some(2), "{name}: {}{}", end.stdout, end.stderr);
    assert_eq!(end.stdout, "", "{name}");
    assert_eq!(end.stderr.lines().count(), 1, "{}", end.stderr);
    assert!(end.stderr.starts_with("inventory: ") && end.stderr.contains(name), "{name}: {}", end.stderr);
    assert!(!end.stderr.contains("hunter2"), "{}", end.stderr);
}

#[tokio::test]
async fn a_bad_value_is_refused_by_its_name() {
    for (variable, flag, value) in [
        ("HTTP_ADDR", "--http-addr", "localhost"),
        ("ADMIN_ADDR", "--admin-addr", "127.0.0.1:99999"),
        ("DATABASE_POOL_SIZE", "--database-pool-size", "0"),
        ("DATABASE_POOL_SIZE", "--database-pool-size", "many"),
        ("DRAIN_DELAY", "--drain-delay", "soon"),
        ("SHUTDOWN_TIMEOUT", "--shutdown-timeout", "-1s"),
    ] {
        refused(&program(URL).variable(variable, value).run().await, flag);
        refused(&program(URL).argument(format!("{flag}={value}")).run().await, flag);
    }
    for value in ["verbose", "info,sqlx=loud", ""] {
        refused(&program(URL).variable("LOG_LEVEL", value).run().await, "LOG_LEVEL");
    }
    let endpoint = program(URL).variable("OTEL_EXPORTER_OTLP_ENDPOINT", "no url");
    refused(&endpoint.run().await, "OTEL_EXPORTER_OTLP_ENDPOINT");
    refused(&program(URL).argument("--no-such-flag").run().await, "--no-such-flag");
    refused(&program(URL).argument("sevre").run().await, "sevre");
}

#[tokio::test]
async fn a_bad_database_url_is_refused_without_being_shown() {
    for url in [
        "",
        "inventory",
        "mysql://inventory:hunter2@127.0.0.1/inventory",
        "postgres://inventory:hunter2@127.0.0.1:port/inventory",
        "postgres://inventory:hunter2@[::1/inventory",
        "postgres://inventory:hunter2@127.0.0.1/inventory?sslmode=perhaps",
    ] {
        for command in ["serve", "migrate"] {
            refused(&program(url).argument(command).run().await, "DATABASE_URL");
        }
    }
    refused(&Program::new(env!("CARGO_BIN_EXE_inventory")).run().await, "DATABASE_URL");
}

#[tokio::test]
async fn help_and_version_are_shown() {
    let help = program(URL).argument("--help").run().await;
    assert_eq!((help.code(), help.stderr.as_str()), (Some(0), ""));
    for name in ["DATABASE_URL", "DRAIN_DELAY", "migrate", "openapi"] {
        assert!(help.stdout.contains(name), "{name} is not in {}", help.stdout);
    }
    assert!(!help.stdout.contains("hunter2"));
    let version = program(URL).argument("--version").run().await;
    assert_eq!((version.code(), version.stderr.as_str()), (Some(0), ""));
    assert_eq!(version.stdout.trim(), format!("inventory {}", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn openapi_needs_no_database() {
    let end = Program::new(env!("CARGO_BIN_EXE_inventory")).argument("openapi").run().await;
    assert_eq!((end.code(), end.stderr.as_str()), (Some(0), ""));
    let document: serde_json::Value = serde_json::from_str(&end.stdout).expect("JSON");
    assert!(document["paths"]["/inventory/{product_id}"]["patch"].is_object());
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_taken_port_is_said_in_one_line(pool: PgPool) {
    let first = serve(&program(&url(&pool))).await;
    for (variable, address) in [("HTTP_ADDR", first.http), ("ADMIN_ADDR", first.admin)] {
        let end = program(&url(&pool)).variable(variable, address.to_string()).run().await;
        assert_eq!(end.code(), Some(1));
        let said = end.stdout + &end.stderr;
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&format!("cannot listen on {address}: Address already in use")), "{said}");
    }
}

#[tokio::test]
async fn the_password_is_in_no_log_at_any_level() {
    let postgres = Postgres::migrated().await;
    let mut superuser = PgConnection::connect(&postgres.url).await.expect("a connection");
    sqlx::raw_sql("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'hunter2'").execute(&mut superuser).await.expect("a role");
    for (password, status) in [("hunter2", Some(0)), ("hunter2-wrong", Some(75))] {
        let program = program(&postgres.server.url("app", password, "postgres")).variable("LOG_LEVEL", "trace");
        let migrated = program.clone().argument("migrate").run().await;
        assert_eq!(migrated.code(), status, "{}", migrated.stdout);
        let service = program.serve().await;
        let answer = crate::service::client().get(service.url("/inventory/p")).send().await.expect("an answer");
        assert_eq!(answer.status().is_success(), status == Some(0));
        let served = service.stop().await;
        for text in [migrated.stdout, migrated.stderr, served.stdout, served.stderr] {
            assert!(
                !text.contains("hunter2"),
                "{}",
                text.lines().find(|line| line.contains("hunter2")).unwrap_or_default()
            );
        }
    }
}
