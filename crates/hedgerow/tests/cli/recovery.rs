//! What exits is restarted, and a killed run does not block the next one.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use crate::sandbox::{GATEWAY, SERVICES, Sandbox, Up, failure, lives, send, wait_until};

#[test]
fn a_signal_stops_the_services_and_then_postgres() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let sandbox = Sandbox::new();
        let up = sandbox.up();
        let postgres = sandbox.postgres();
        assert!(up.end(signal).success());
        for service in [&SERVICES[..], &[GATEWAY]].concat() {
            assert_eq!(sandbox.noted(service, "serving").len(), 1);
            assert_eq!(sandbox.noted(service, "terminated"), sandbox.noted(service, "serving"));
        }
        assert!(!lives(postgres));
        assert!(!sandbox.path("data/pgdata/postmaster.pid").exists());
    }
}

#[test]
fn a_second_signal_forces_shutdown() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("users.stubborn"), "").unwrap();
    let up = sandbox.up();
    let users = sandbox.noted("users", "serving")[0];
    send(up.pid(), Signal::SIGINT);
    wait_until("users receives SIGTERM", || sandbox.noted("users", "terminated") == [users]);
    assert_eq!(up.end(Signal::SIGINT).code(), Some(130));
    assert!(!lives(users));
}

#[test]
fn a_second_signal_interrupts_initdb() {
    let sandbox = Sandbox::new();
    let mut up = sandbox.up_command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("initdb runs", || sandbox.path("data/pgdata.new").exists());
    // Two signals of the same kind could be merged into one.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        send(up.id().cast_signed(), signal);
    }
    assert_eq!(up.wait().unwrap().code(), Some(130));
    assert!(!sandbox.path("data/pgdata").exists());
    drop(sandbox.up());
}

#[test]
fn a_second_signal_works_while_postgres_restarts() {
    let sandbox = Sandbox::new();
    let up = sandbox.up();
    let services = ["users", "inventory", GATEWAY].map(|service| sandbox.noted(service, "serving")[0]);
    recover_for_ever(&sandbox);
    send(sandbox.postgres(), Signal::SIGKILL);
    up.wait_for_line("Postgres exited; restarting it");
    send(up.pid(), Signal::SIGINT);
    up.wait_for_line("stopping once Postgres has started; Ctrl-C again stops at once");
    assert_eq!(up.end(Signal::SIGINT).code(), Some(130));
    assert!(!services.into_iter().any(lives));
}

#[test]
fn a_second_signal_works_while_nobody_reads_the_output() {
    let sandbox = Sandbox::new();
    let (_unread, full) = std::io::pipe().unwrap();
    fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while (&full).write(&[0; 4096]).is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let mut up = sandbox.up_command().stdout(full).stderr(Stdio::null()).spawn().unwrap();
    let waits_for = format!("/proc/{}/wchan", up.id());
    wait_until("the output blocks", || fs::read_to_string(&waits_for).unwrap().contains("pipe_write"));
    // Two signals of the same kind could be merged into one.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        send(up.id().cast_signed(), signal);
    }
    wait_until("hedgerow exits", || up.try_wait().unwrap().is_some());
    assert_eq!(up.wait().unwrap().code(), Some(130));
    assert!(!lives(sandbox.noted("users", "serving")[0]));
}

#[test]
fn a_long_recovery_is_waited_for_and_its_progress_is_shown() {
    let sandbox = Sandbox::new();
    drop(sandbox.up());
    recover_for_ever(&sandbox);
    let up = Up::run_until(&mut sandbox.up_command(), "Postgres is starting: ");
    fs::write(sandbox.path("data/pgdata/promote"), "").unwrap();
    send(sandbox.postgres(), Signal::SIGUSR1);
    up.wait_for_line("Try:");
}

/// Makes Postgres recover from its next start until it is promoted: it becomes a standby that accepts no connections.
fn recover_for_ever(sandbox: &Sandbox) {
    let settings = fs::OpenOptions::new().append(true).open(sandbox.path("data/pgdata/postgresql.auto.conf"));
    settings.unwrap().write_all(b"hot_standby = off\n").unwrap();
    fs::write(sandbox.path("data/pgdata/standby.signal"), "").unwrap();
}

#[test]
fn data_survives_a_restart_and_passwords_change() {
    let sandbox = Sandbox::new();
    drop(sandbox.up());
    let first = sandbox.given("users", "DATABASE_URL").unwrap();
    let _up = sandbox.up();
    assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "2");
    assert_ne!(sandbox.given("users", "DATABASE_URL").unwrap(), first);
}

#[test]
fn a_run_starts_normally_after_kill_9() {
    let sandbox = Sandbox::new();
    let up = sandbox.up();
    let orphan = sandbox.postgres();
    assert!(!up.end(Signal::SIGKILL).success());
    let _up = sandbox.up();
    assert!(!lives(orphan));
    assert_eq!(sandbox.sql("inventory", "SELECT count(*) FROM starts"), "2");
}

#[test]
fn services_that_outlive_a_killed_run_are_ended() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("users.stubborn"), "").unwrap();
    let up = sandbox.up();
    let orphan = sandbox.noted("users", "serving")[0];
    up.end(Signal::SIGKILL);
    assert!(lives(orphan));
    let _up = sandbox.up();
    assert!(!lives(orphan));
    fs::remove_file(sandbox.path("users.stubborn")).unwrap();
}

#[test]
fn services_exit_when_hedgerow_is_killed() {
    let sandbox = Sandbox::new();
    let up = sandbox.up();
    let services = ["users", "inventory", GATEWAY].map(|service| sandbox.noted(service, "serving")[0]);
    up.end(Signal::SIGKILL);
    wait_until("the services exit", || !services.into_iter().any(lives));
}

/// Runs users by a shell that passes no signals on, as many wrappers do.
fn wrap_users(sandbox: &Sandbox) {
    let wrapper = "#!/bin/sh\npython3 ./users.py \"$@\" &\nwait $!\n";
    fs::rename(sandbox.path("users"), sandbox.path("users.py")).unwrap();
    fs::write(sandbox.path("users"), wrapper).unwrap();
    fs::set_permissions(sandbox.path("users"), Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_a_service_has_started_stops_with_it() {
    let sandbox = Sandbox::new();
    wrap_users(&sandbox);
    let up = sandbox.up();
    let server = sandbox.noted("users", "serving")[0];
    assert!(lives(server));
    assert!(up.end(Signal::SIGTERM).success());
    assert!(!lives(server));
    assert_eq!(sandbox.noted("users", "terminated"), [server], "it was asked once");
}

#[test]
fn what_a_service_has_started_ends_before_its_restart() {
    let sandbox = Sandbox::new();
    wrap_users(&sandbox);
    let _up = sandbox.up();
    let server = sandbox.noted("users", "serving")[0];
    let stat = fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    let wrapper = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    send(wrapper, Signal::SIGKILL);
    wait_until("users serves again", || sandbox.noted("users", "serving").len() == 2);
    assert!(!lives(server));
}

#[test]
fn a_service_that_exits_is_restarted() {
    let sandbox = Sandbox::new();
    let up = sandbox.up();
    send(sandbox.noted("users", "serving")[0], Signal::SIGKILL);
    let line = up.wait_for_line("restarting it");
    assert_eq!(line, "hedgerow: users exited (signal: 9 (SIGKILL)); restarting it in 200 ms");
    wait_until("users serves again", || sandbox.noted("users", "serving").len() == 2);
    assert_eq!(sandbox.noted("inventory", "serving").len(), 1);
}

#[test]
fn postgres_is_restarted_when_it_exits() {
    let sandbox = Sandbox::new();
    let up = sandbox.up();
    let first = sandbox.postgres();
    send(first, Signal::SIGKILL);
    up.wait_for_line("Postgres exited; restarting it");
    wait_until("another server runs", || {
        let file = fs::read_to_string(sandbox.path("data/pgdata/postmaster.pid")).unwrap_or_default();
        file.contains("ready") && file.lines().next() != Some(&*first.to_string())
    });
    assert_eq!(sandbox.sql("users", "SELECT count(*) FROM starts"), "1");
}

#[test]
fn a_service_that_does_not_start_stops_the_run() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("users.broken"), "").unwrap();
    let said = failure(&mut sandbox.up_command());
    assert!(said.contains("broken by its file\n"), "{said}");
    assert!(said.ends_with("hedgerow: users exited before it was ready (exit status: 1)\n"), "{said}");
    assert!(!sandbox.path("data/pgdata/postmaster.pid").exists());
    assert!(!lives(sandbox.noted("inventory", "serving")[0]));
}
