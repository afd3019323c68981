//! Arguments and environment: errors are reported at start, in one line, without secrets.

use std::{fs::File, process::Command};

use sqlx::{Connection, PgConnection, PgPool};
use test_support::process::{Finished, Program};

use crate::service::{Postgres, program, serve, url};

/// The URL of a database that no test here connects to.
const URL: &str = "postgres://inventory:hunter2@127.0.0.1:1/inventory";

/// Asserts that the process exited with a usage error of one line that contains `name`.
fn refused(end: &Finished, name: &str) {
    assert_eq!(end.code(), Some(2), "{name}: {}{}", end.stdout, end.stderr);
    assert_eq!(end.stdout, "", "{name}");
    assert_eq!(end.stderr.lines().count(), 1, "{}", end.stderr);
    assert!(end.stderr.starts_with("inventory: ") && end.stderr.contains(name), "{name}: {}", end.stderr);
    assert!(!end.stderr.contains("hunter2"), "{}", end.stderr);
}

#[tokio::test]
async fn an_invalid_value_is_reported_by_its_name() {
    for (variable, flag, value) in [
        ("HTTP_ADDR", "--http-addr", "localhost"),
        ("ADMIN_ADDR", "--admin-addr", "127.0.0.1:99999"),
        ("DATABASE_POOL_SIZE", "--database-pool-size", "0"),
        ("DATABASE_POOL_SIZE", "--database-pool-size", "many"),
        ("DRAIN_DELAY", "--drain-delay", "soon"),
        ("SHUTDOWN_TIMEOUT", "--shutdown-timeout", "-1s"),
        ("RESERVATION_RETENTION", "--reservation-retention", "30"),
        ("RESERVATION_RETENTION", "--reservation-retention", "47h 59m"),
        ("RESERVATION_RETENTION", "--reservation-retention", "36501d"),
        ("LEDGER_RETENTION", "--ledger-retention", ""),
        ("LEDGER_RETENTION", "--ledger-retention", "1day"),
        // Less than that of reservations.
        ("LEDGER_RETENTION", "--ledger-retention", "29d"),
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
async fn a_refused_retention_says_why() {
    let refused = async |reservations, ledgers| {
        let program = program(URL).variable("RESERVATION_RETENTION", reservations);
        program.variable("LEDGER_RETENTION", ledgers).run().await.stderr
    };
    let expected = "inventory: invalid value '1d' for '--reservation-retention <TIME>': must be at least 2d: \
                    a reservation can be held, and a request repeated, for a day\n";
    assert_eq!(refused("1d", "90d").await, expected);
    let expected = "inventory: --ledger-retention must be at least --reservation-retention: \
                    a reservation is kept with its movements\n";
    assert_eq!(refused("90d", "89d").await, expected);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn the_shortest_and_the_longest_retention_are_accepted(pool: PgPool) {
    for retention in ["2d", "36500d"] {
        let program = program(&url(&pool)).variable("RESERVATION_RETENTION", retention);
        serve(&program.variable("LEDGER_RETENTION", retention)).await.stop().await;
    }
}

#[tokio::test]
async fn help_starts_with_the_purpose_of_the_service() {
    let end = program(URL).argument("--help").run().await;
    assert_eq!(end.code(), Some(0), "{}", end.stderr);
    assert!(end.stdout.starts_with("Inventory: "), "{}", end.stdout);
}

#[tokio::test]
async fn an_invalid_database_url_is_reported_without_its_value() {
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
async fn help_and_version_are_printed() {
    let help = program(URL).argument("--help").run().await;
    assert_eq!((help.code(), help.stderr.as_str()), (Some(0), ""));
    for name in ["DATABASE_URL", "DRAIN_DELAY", "RESERVATION_RETENTION", "LEDGER_RETENTION", "migrate", "openapi"] {
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

#[test]
fn openapi_fails_if_it_cannot_write() {
    let full = File::create("/dev/full").expect("a device without space");
    let mut command = Command::new(env!("CARGO_BIN_EXE_inventory"));
    let output = command.arg("openapi").stdout(full).output().expect("the process runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("inventory: cannot print the OpenAPI document: "), "{stderr}");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_port_in_use_is_reported_in_one_line(pool: PgPool) {
    let first = serve(&program(&url(&pool))).await;
    for (variable, address) in [("HTTP_ADDR", first.http), ("ADMIN_ADDR", first.admin)] {
        let end = program(&url(&pool)).variable(variable, address.to_string()).run().await;
        assert_eq!(end.code(), Some(1));
        let output = end.stdout + &end.stderr;
        assert_eq!(output.lines().count(), 1, "{output}");
        assert!(output.contains(&format!("cannot listen on {address}: Address already in use")), "{output}");
    }
}

#[tokio::test]
async fn the_password_is_never_logged() {
    let postgres = Postgres::migrated().await;
    let mut superuser = PgConnection::connect(&postgres.url).await.expect("a connection");
    sqlx::raw_sql("CREATE ROLE app LOGIN SUPERUSER PASSWORD 'hunter2'").execute(&mut superuser).await.expect("a role");
    for (password, status) in [("hunter2", Some(0)), ("hunter2-wrong", Some(75))] {
        let program = program(&postgres.server.url("app", password, "postgres")).variable("LOG_LEVEL", "trace");
        let migrated = program.clone().argument("migrate").run().await;
        assert_eq!(migrated.code(), status, "{}", migrated.stdout);
        let service = program.serve().await;
        let response = crate::service::client().get(service.url("/inventory/p")).send().await.expect("a response");
        assert_eq!(response.status().is_success(), status == Some(0));
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
