//! Finds installed versions of Postgres.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::Error;

/// The folder with the programs of one version.
#[derive(Clone, Debug)]
pub struct Installation {
    pub bin: PathBuf,
    pub major: u32,
}

impl Installation {
    /// Returns the newest installed version.
    pub fn newest() -> Result<Self, Error> {
        all().into_iter().max_by_key(|found| found.major).ok_or(Error::NotInstalled)
    }

    /// Returns the version `made_by`, which created the cluster in `dir`.
    pub fn for_version(made_by: &str, dir: &Path) -> Result<Self, Error> {
        let all = all();
        if all.is_empty() {
            return Err(Error::NotInstalled);
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
}
