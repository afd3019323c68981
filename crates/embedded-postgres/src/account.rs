//! The OS account a server runs as: Postgres refuses to run as root.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User};

use crate::folder::Folder;
use crate::pdeathsig::with_pdeathsig_as;
use crate::{CLUSTER, Error};

/// The group of an account that is not in the user database: the kernel's overflow group, which has no rights. That of
/// its files may be one that it is not in, from a folder with the set-group-ID bit.
const NO_GROUP: Gid = Gid::from_raw(65534);

/// The account that runs the server: the current user, or an unprivileged account if the current user is root.
#[derive(Clone, Debug)]
pub struct Account {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    dropped: bool,
}

impl Account {
    /// Returns the account for a server on `data_dir`: the current user. If that is root, it is the owner of the
    /// existing data, even one that has no name, else `postgres`, else `nobody`.
    ///
    /// # Errors
    /// Returns [`Error::NoAccount`] if the current user is root and none of these accounts exists, and an error if the
    /// owner of the data cannot be determined.
    pub fn for_data_dir(data_dir: &Path) -> Result<Self, Error> {
        let me = Uid::effective();
        if !me.is_root() {
            let name = user(User::from_uid(me))?.map_or(me.to_string(), |user| user.name);
            return Ok(Self { name, uid: me, gid: Gid::effective(), dropped: false });
        }
        let data_dir = std::path::absolute(data_dir).map_err(Error::io(format!("open {}", data_dir.display())))?;
        let cluster = Folder::find(&data_dir.join(CLUSTER))?;
        let owner = cluster.map(|cluster| cluster.owner()).transpose()?.filter(|owner| !owner.is_root());
        let user = match owner {
            Some(uid) => match user(User::from_uid(uid))? {
                Some(user) => user,
                None => return Ok(Self { name: uid.to_string(), uid, gid: NO_GROUP, dropped: true }),
            },
            None => user(User::from_name("postgres"))?.or(user(User::from_name("nobody"))?).ok_or(Error::NoAccount)?,
        };
        Ok(Self { name: user.name, uid: user.uid, gid: user.gid, dropped: true })
    }

    /// The account's name, or its number if it has no name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the account can enter `path` or, if that does not exist yet, its nearest existing ancestor.
    #[must_use]
    pub fn can_enter(&self, path: &Path) -> bool {
        let nearest = path.ancestors().find(|ancestor| ancestor.is_dir());
        let Some(nearest) = nearest.filter(|_| self.dropped) else { return true };
        // Ask the kernel: access control lists and mount options matter as well as the mode.
        let mut probe = self.command("KILL", "test");
        probe.arg("-x").arg(nearest).stdin(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    }

    /// Whether the account differs from the current user, so that files must change owner.
    pub(crate) fn is_different(&self) -> bool {
        self.dropped
    }

    /// Returns a command for `program`, run as the account, with a parent-death signal as in
    /// [`with_pdeathsig`](crate::with_pdeathsig).
    #[must_use]
    pub fn command(&self, signal: &str, program: impl AsRef<OsStr>) -> Command {
        let ids = self.dropped.then_some((self.uid, self.gid));
        with_pdeathsig_as(ids, signal, program)
    }
}

fn user(lookup: nix::Result<Option<User>>) -> Result<Option<User>, Error> {
    lookup.map_err(|errno| Error::io("read the user database")(errno.into()))
}
