//! The database cluster in the data folder, created by `initdb` in one atomic step.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::folder::Folder;
use crate::installation::Installation;
use crate::{Account, CLUSTER, DataDir, Error, SUPERUSER};

/// Client authentication. The server listens on a Unix socket in a private folder only, so anyone who can connect as
/// the superuser owns the data anyway.
const HBA: &str = "\
# Rewritten at every start.
local  all  postgres  trust
local  all  all       scram-sha-256
";

/// Creates the cluster in `data` if it is missing, and finds a Postgres that can run it.
pub fn prepare(data: &DataDir, fsync: bool) -> Result<Installation, Error> {
    write_hba(data)?;
    if fs::symlink_metadata(data.folder.at(CLUSTER)).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        let newest = Installation::newest()?;
        create(&data.folder, &newest, data.account(), fsync)?;
        return Ok(newest);
    }
    let cluster = data.cluster()?;
    let mut made_by = String::new();
    let opened = cluster.open_file("PG_VERSION", OpenOptions::new().read(true));
    match opened.and_then(|mut file| file.read_to_string(&mut made_by)) {
        Ok(_) => Installation::for_version(made_by.trim(), cluster.path()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Init(format!(
            "{} exists but holds no Postgres data: move it out of the way",
            cluster.path().display()
        ))),
        Err(error) => Err(Error::io(format!("read {}", cluster.path().join("PG_VERSION").display()))(error)),
    }
}

/// Replaces the file, whoever owns it and whatever its mode is.
fn write_hba(data: &DataDir) -> Result<(), Error> {
    let (folder, name) = (&data.folder, "pg_hba.conf");
    let failed = || Error::io(format!("write {}", folder.path().join(name).display()));
    match fs::remove_file(folder.at(name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    let file = folder.create_file(name, OpenOptions::new().write(true), data.account());
    file.and_then(|mut file| file.write_all(HBA.as_bytes())).map_err(failed())
}

/// Initializes a temporary folder, then renames it, so that a killed `initdb` leaves nothing that looks like data.
fn create(folder: &Folder, installation: &Installation, account: &Account, fsync: bool) -> Result<(), Error> {
    let name = format!("{CLUSTER}.new");
    match fs::remove_dir_all(folder.at(&name)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io(format!("remove {}", folder.path().join(name).display()))(error));
        }
        _ => {}
    }
    let draft = folder.create(&name, 0o700)?;
    if account.is_different() {
        draft.set_owner(account)?;
    }
    // The locale of the official image: case rules beyond ASCII, sorted by code point.
    let mut result = initdb(draft.path(), "C.UTF-8", installation, account, fsync);
    if matches!(&result, Err(Error::Init(output)) if output.contains("invalid locale")) {
        result = initdb(draft.path(), "C", installation, account, fsync);
    }
    result?;
    fs::rename(folder.at(&name), folder.at(CLUSTER))
        .map_err(Error::io(format!("rename {}", draft.path().display())))?;
    File::open(folder.at("."))
        .and_then(|opened| if fsync { opened.sync_all() } else { Ok(()) })
        .map_err(Error::io(format!("sync {}", folder.path().display())))
}

fn initdb(
    folder: &Path,
    locale: &str,
    installation: &Installation,
    account: &Account,
    fsync: bool,
) -> Result<(), Error> {
    // If this process is killed, initdb must not keep running next to the one of the next start.
    let mut command = account.command("KILL", installation.bin.join("initdb"));
    command.arg("--pgdata").arg(folder).args(["--username", SUPERUSER, "--encoding", "UTF8"]);
    // Only for a server that is started by hand: ours reads its own pg_hba.conf.
    command.args(["--locale", locale, "--auth-local", "peer", "--auth-host", "scram-sha-256"]);
    if !fsync {
        command.arg("--no-sync");
    }
    let output = with_clean_environment(&mut command)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io(format!("run {}", installation.bin.join("initdb").display())))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Init(if message.is_empty() { output.status.to_string() } else { message }))
}

/// Clears what the server must not inherit: `PG*` variables, locale and working folder.
pub fn with_clean_environment(command: &mut Command) -> &mut Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("LC_ALL", "C").current_dir("/")
}
