//! The database cluster in the data folder, created by `initdb` in one atomic step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::installation::Installation;
use crate::pdeathsig::with_pdeathsig;
use crate::{Account, CLUSTER, DataDir, Error, SUPERUSER};

/// Client authentication. The server listens on a Unix socket in a private folder only, so anyone who can connect as
/// the superuser owns the data anyway.
const HBA: &str = "\
# Rewritten at every start.
local  all  postgres  trust
local  all  all       scram-sha-256
";

/// Creates the cluster in `data` if it is missing, and finds a Postgres that can run it.
pub fn prepare(data: &DataDir, fsync: bool) -> Result<(PathBuf, Installation), Error> {
    let cluster = data.path().join(CLUSTER);
    let hba = data.path().join("pg_hba.conf");
    fs::write(&hba, HBA).map_err(Error::io(format!("write {}", hba.display())))?;
    let installation = match fs::read_to_string(cluster.join("PG_VERSION")) {
        Ok(made_by) => Installation::for_version(made_by.trim(), &cluster)?,
        Err(_) if cluster.exists() => {
            return Err(Error::Init(format!(
                "{} exists but holds no Postgres data: move it out of the way",
                cluster.display()
            )));
        }
        Err(_) => {
            let newest = Installation::newest()?;
            create(&cluster, &newest, &data.account, fsync)?;
            newest
        }
    };
    Ok((cluster, installation))
}

/// Initializes a temporary folder, then renames it, so that a killed `initdb` leaves nothing that looks like data.
fn create(cluster: &Path, installation: &Installation, account: &Account, fsync: bool) -> Result<(), Error> {
    let draft = cluster.with_extension("new");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(Error::io(format!("remove {}", draft.display())))?;
    }
    fs::create_dir(&draft).map_err(Error::io(format!("create {}", draft.display())))?;
    if account.is_different() {
        std::os::unix::fs::chown(&draft, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
            .map_err(Error::io(format!("change the owner of {} to {}", draft.display(), account.name)))?;
    }
    // The locale of the official image: case rules beyond ASCII, sorted by code point.
    let mut result = initdb(&draft, "C.UTF-8", installation, account, fsync);
    if matches!(&result, Err(Error::Init(output)) if output.contains("invalid locale")) {
        result = initdb(&draft, "C", installation, account, fsync);
    }
    result?;
    fs::rename(&draft, cluster).map_err(Error::io(format!("rename {}", draft.display())))?;
    let parent = cluster.parent().unwrap_or(cluster);
    fs::File::open(parent)
        .and_then(|folder| if fsync { folder.sync_all() } else { Ok(()) })
        .map_err(Error::io(format!("sync {}", parent.display())))
}

fn initdb(
    folder: &Path,
    locale: &str,
    installation: &Installation,
    account: &Account,
    fsync: bool,
) -> Result<(), Error> {
    // If this process is killed, initdb must not keep running next to the one of the next start.
    let mut command = with_pdeathsig("KILL", installation.bin.join("initdb"));
    command.arg("--pgdata").arg(folder).args(["--username", SUPERUSER, "--encoding", "UTF8"]);
    // Only for a server that is started by hand: ours reads its own pg_hba.conf.
    command.args(["--locale", locale, "--auth-local", "peer", "--auth-host", "scram-sha-256"]);
    if !fsync {
        command.arg("--no-sync");
    }
    let output = account
        .run_as(with_clean_environment(&mut command))
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
