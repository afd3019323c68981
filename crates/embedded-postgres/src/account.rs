//! The OS account a server runs as: Postgres refuses to run as root.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use crate::Error;
use crate::cluster::CLUSTER;

/// Who runs the server: oneself, or, for root, an account without privileges.
#[derive(Clone, Debug)]
pub struct Account {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    dropped: bool,
}

impl Account {
    /// The account that runs a server on `data_dir`: oneself; for root, whoever owns the data that is
    /// already there, or else `postgres`, or else `nobody`.
    ///
    /// # Errors
    /// [`Error::NoAccount`] for root on a system that has neither.
    pub fn of(data_dir: &Path) -> Result<Self, Error> {
        let me = Uid::effective();
        if !me.is_root() {
            let name = user(User::from_uid(me))?.map_or(me.to_string(), |user| user.name);
            return Ok(Self { name, uid: me, gid: Gid::effective(), dropped: false });
        }
        let owner = std::fs::metadata(data_dir.join(CLUSTER)).ok().map(|data| Uid::from_raw(data.uid()));
        let owner = match owner {
            Some(uid) if !uid.is_root() => user(User::from_uid(uid))?,
            _ => None,
        };
        let user = match owner {
            Some(owner) => Some(owner),
            None => user(User::from_name("postgres"))?.or(user(User::from_name("nobody"))?),
        };
        let user = user.ok_or(Error::NoAccount)?;
        Ok(Self { name: user.name, uid: user.uid, gid: user.gid, dropped: true })
    }

    /// Its name, or its number where it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it can get to `path`, or, while that does not exist, to the folder it would be made in.
    #[must_use]
    pub fn can_enter(&self, path: &Path) -> bool {
        let nearest = path.ancestors().find(|ancestor| ancestor.is_dir());
        let Some(nearest) = nearest.filter(|_| self.dropped) else { return true };
        // The kernel judges, as access lists and mounts have a say besides the mode.
        let mut probe = Command::new("test");
        self.run_as(probe.arg("-x").arg(nearest)).stdin(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }

    /// Whether the account is another than the one that calls: then files have to be handed over.
    pub(crate) fn is_other(&self) -> bool {
        self.dropped
    }

    /// Makes `command` run as the account. For root, `uid` also drops the supplementary groups.
    pub(crate) fn run_as<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if self.dropped {
            command.uid(self.uid.as_raw()).gid(self.gid.as_raw());
        }
        command
    }
}

fn user(found: nix::Result<Option<User>>) -> Result<Option<User>, Error> {
    found.map_err(|errno| Error::io("read the user database")(errno.into()))
}
