//! Finds installed versions of Postgres.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::Error;

/// The oldest major version that the services support.
pub const OLDEST: u32 = 15;

/// The folder with the programs of one version.
#[derive(Clone, Debug)]
pub struct Installation {
    pub bin: PathBuf,
    pub major: u32,
}

impl Installation {
    /// Returns the newest installed version.
    pub fn newest() -> Result<Self, Error> {
        all().into_iter().max_by_key(|found| found.major).ok_or(Error::NotInstalled)?.supported()
    }

    fn supported(self) -> Result<Self, Error> {
        if self.major < OLDEST { Err(Error::TooOld { newest: self.major }) } else { Ok(self) }
    }

    /// Returns the version `made_by`, which created the cluster in `dir`.
    pub fn for_version(made_by: &str, dir: &Path) -> Result<Self, Error> {
        let all = all();
        if all.is_empty() {
            return Err(Error::NotInstalled);
        }
        // Before version 10, two numbers named a major version, such as 9.6.
        let major = made_by.split('.').next().and_then(|number| number.parse::<u32>().ok());
        if major.is_some_and(|major| major < OLDEST) {
            return Err(Error::OldData { dir: dir.to_owned(), made_by: made_by.to_owned() });
        }
        let installed = all.iter().map(|found| found.major.to_string()).collect::<Vec<_>>().join(", ");
        all.into_iter().find(|found| found.major.to_string() == made_by).ok_or_else(|| Error::OtherVersion {
            dir: dir.to_owned(),
            made_by: made_by.to_owned(),
            installed,
        })
    }
}

fn all() -> Vec<Installation> {
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let packaged = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = packaged.map(|version| version.path().join("bin"));
    // Resolve links: `initdb` is next to the real `postgres`, not next to a link to it.
    let mut folders: Vec<PathBuf> = on_path
        .into_iter()
        .chain(packaged)
        .filter_map(|folder| Some(folder.join("postgres").canonicalize().ok()?.parent()?.to_owned()))
        .filter(|folder| folder.join("initdb").is_file())
        .collect();
    folders.sort();
    folders.dedup();
    folders.into_iter().filter_map(|bin| Some(Installation { major: major(&bin)?, bin })).collect()
}

fn major(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// Parses `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)` or `postgres (PostgreSQL) 18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_parsed_from_the_version_line() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"), Some(15));
        assert_eq!(parse_major("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(parse_major("something else"), None);
    }

    #[test]
    fn a_version_before_15_is_refused() {
        let installed = |major| Installation { bin: PathBuf::new(), major };
        let refusal = installed(14).supported().unwrap_err().to_string();
        assert_eq!(refusal, "the installed Postgres 14 is too old: install Postgres 15 or later");
        assert_eq!(installed(15).supported().unwrap().major, 15);
    }
}
