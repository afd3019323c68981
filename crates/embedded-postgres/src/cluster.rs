//! The cluster in the data folder: made whole by `initdb`, or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::installation::Installation;
use crate::tether::tethered;
use crate::{Account, DataDir, Error, SUPERUSER};

/// The cluster's folder within the data folder.
pub const CLUSTER: &str = "pgdata";

/// Who may come in, by which proof. Nothing but the socket is listened on; its folder is private, so whoever
/// gets there as the superuser owns the data anyway.
const HBA: &str = "\
# Written at each start.
local  all  postgres  trust
local  all  all       scram-sha-256
";

/// The cluster in `data`, made where it is missing, and the Postgres that can run it.
pub fn prepare(data: &DataDir, fsync: bool) -> Result<(PathBuf, Installation), Error> {
    let cluster = data.path().join(CLUSTER);
    let hba = data.path().join("pg_hba.conf");
    fs::write(&hba, HBA).map_err(Error::io(format!("write {}", hba.display())))?;
    let installation = match fs::read_to_string(cluster.join("PG_VERSION")) {
        Ok(made_by) => Installation::for_version(made_by.trim(), &cluster)?,
        Err(_) if cluster.exists() => {
            return Err(Error::Init(format!("{} is there and holds no Postgres data", cluster.display())));
        }
        Err(_) => {
            let newest = Installation::newest()?;
            create(&cluster, &newest, &data.account, fsync)?;
            newest
        }
    };
    Ok((cluster, installation))
}

/// Initialises beside, then renames: an `initdb` that was killed midway leaves nothing that looks like data.
fn create(cluster: &Path, installation: &Installation, account: &Account, fsync: bool) -> Result<(), Error> {
    let draft = cluster.with_extension("new");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(Error::io(format!("remove {}", draft.display())))?;
    }
    fs::create_dir(&draft).map_err(Error::io(format!("make {}", draft.display())))?;
    if account.is_other() {
        std::os::unix::fs::chown(&draft, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
            .map_err(Error::io(format!("hand {} to {}", draft.display(), account.name)))?;
    }
    // As in the cluster's image: letters beyond ASCII have a case, and the order is that of the code points.
    let mut made = initdb(&draft, "C.UTF-8", installation, account, fsync);
    if matches!(&made, Err(Error::Init(output)) if output.contains("invalid locale")) {
        made = initdb(&draft, "C", installation, account, fsync);
    }
    made?;
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
    // Should we be killed, it is not to go on beside the one that the next start runs.
    let mut command = tethered("KILL", installation.bin.join("initdb"));
    command.arg("--pgdata").arg(folder).args(["--username", SUPERUSER, "--encoding", "UTF8"]);
    // What holds for a server started by hand; ours reads its own pg_hba.conf.
    command.args(["--locale", locale, "--auth-local", "peer", "--auth-host", "scram-sha-256"]);
    if !fsync {
        command.arg("--no-sync");
    }
    let output = account
        .run_as(neutral(&mut command))
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io(format!("run {}", installation.bin.join("initdb").display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Init(if said.is_empty() { output.status.to_string() } else { said }))
}

/// Keeps the caller's `PG*` variables, language and folder out of what the server does.
pub fn neutral(command: &mut Command) -> &mut Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("LC_ALL", "C").current_dir("/")
}
