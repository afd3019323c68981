//! The ownership comment on a role and its database. The operator touches nothing that it does not own.

use std::{fmt, str::FromStr};

use super::identifier::Invalid;

/// The prefix of every ownership comment. Existing databases carry it, so it must never change.
pub(super) const PREFIX: &str = "hedgerow.dev/microservice ";

/// The value of the annotation `hedgerow.dev/adopt` that adopts what has no ownership comment.
pub(super) const UNMARKED: &str = "unmarked";

/// The `Microservice` that owns a role and a database.
///
/// Its text form is the comment on both: `hedgerow.dev/microservice CLUSTER/INSTALLATION/NAMESPACE/NAME`. In comments
/// of the first versions, the cluster is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    cluster: Option<String>,
    installation: String,
    namespace: String,
    name: String,
}

impl Owner {
    /// Creates the owner for an object. Cluster and installation distinguish operators that share a server.
    ///
    /// # Errors
    /// Returns an error if a part is empty or contains anything but ASCII letters, digits, `-`, `.` and `_`.
    pub fn new(
        cluster: impl Into<String>,
        installation: impl Into<String>,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Result<Self, Invalid> {
        Self {
            cluster: Some(cluster.into()),
            installation: installation.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
        .checked()
    }

    fn checked(self) -> Result<Self, Invalid> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_bad = |part: &String| part.is_empty() || !part.chars().all(plain);
        if self.cluster.iter().chain([&self.installation, &self.namespace, &self.name]).any(is_bad) {
            return Err(Invalid(
                "cluster, installation, namespace and name must be non-empty and consist of ASCII letters, digits, \
                 '-', '.' and '_'",
            ));
        }
        Ok(self)
    }

    /// The same owner as the first versions wrote it, without the cluster.
    #[must_use]
    pub fn without_cluster(&self) -> Self {
        Self { cluster: None, ..self.clone() }
    }

    /// The entry that permits the object to adopt `database`, in the Secret of a server: `DATABASE=NAMESPACE/NAME`.
    #[must_use]
    pub fn adoption_entry(&self, database: &str) -> String {
        format!("{database}={}/{}", self.namespace, self.name)
    }

    /// The owner for readers of an error.
    pub(super) fn describe(&self) -> String {
        let cluster = match &self.cluster {
            Some(cluster) => format!("cluster {cluster}"),
            None => "an unknown cluster".to_owned(),
        };
        format!("{}/{} of installation {} in {cluster}", self.namespace, self.name, self.installation)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        if let Some(cluster) = &self.cluster {
            write!(f, "{cluster}/")?;
        }
        write!(f, "{}/{}/{}", self.installation, self.namespace, self.name)
    }
}

impl FromStr for Owner {
    type Err = Invalid;

    fn from_str(comment: &str) -> Result<Self, Invalid> {
        let parts: Vec<&str> = comment.strip_prefix(PREFIX).into_iter().flat_map(|parts| parts.split('/')).collect();
        let (cluster, installation, namespace, name) = match parts[..] {
            [cluster, installation, namespace, name] => (Some(cluster.to_owned()), installation, namespace, name),
            [installation, namespace, name] => (None, installation, namespace, name),
            _ => {
                return Err(Invalid(
                    "an ownership comment has the form \
                     `hedgerow.dev/microservice CLUSTER/INSTALLATION/NAMESPACE/NAME`",
                ));
            }
        };
        let (installation, namespace, name) = (installation.to_owned(), namespace.to_owned(), name.to_owned());
        Self { cluster, installation, namespace, name }.checked()
    }
}

/// Which existing roles and databases an object may adopt, parsed from the annotation `hedgerow.dev/adopt`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Adoption {
    /// None.
    #[default]
    None,
    /// Those without an ownership comment, such as a database restored from a dump: `unmarked`.
    Unowned,
    /// Those of this owner, such as an object of a deleted cluster. The comment is spelled out in full, so that a
    /// manifest copied to another cluster adopts nothing by accident.
    OwnedBy(Owner),
}

impl FromStr for Adoption {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            UNMARKED => Ok(Self::Unowned),
            comment => comment.parse().map(Self::OwnedBy).map_err(|_| {
                Invalid(
                    "the annotation hedgerow.dev/adopt must be `unmarked` or the current ownership comment of the \
                     database",
                )
            }),
        }
    }
}

/// How a role or database relates to an object, by its comment.
#[derive(Debug, PartialEq)]
pub(super) enum Ownership {
    /// The object owns it.
    Owned,
    /// The object may adopt it.
    Adoptable,
    /// It has no ownership comment.
    Unowned,
    /// Another object owns it.
    Other(Owner),
}

impl Ownership {
    pub(super) fn read(comment: Option<&str>, owner: &Owner, adoption: &Adoption) -> Self {
        match (comment.and_then(|comment| comment.parse::<Owner>().ok()), adoption) {
            (Some(found), _) if found == *owner => Self::Owned,
            (Some(found), Adoption::OwnedBy(adopted)) if found == *adopted => Self::Adoptable,
            (Some(found), _) => Self::Other(found),
            (None, Adoption::Unowned) => Self::Adoptable,
            (None, _) => Self::Unowned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner::new("c5a8", "hedgerow", "shop", "inventory").unwrap()
    }

    #[test]
    fn an_ownership_comment_round_trips() {
        assert_eq!(owner().to_string(), "hedgerow.dev/microservice c5a8/hedgerow/shop/inventory");
        assert_eq!(owner().to_string().parse(), Ok(owner()));
        let former = owner().without_cluster();
        assert_eq!(former.to_string(), "hedgerow.dev/microservice hedgerow/shop/inventory");
        assert_eq!(former.to_string().parse(), Ok(former));
    }

    #[test]
    fn other_comments_are_not_ownership_comments() {
        let prefix = "hedgerow.dev/microservice";
        for text in ["", "ask Ada", "a/b/c", &format!("{prefix} a/b"), &format!("{prefix} a/b/c/d/e")] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
        for part in ["", "a/b", "a b", r"a\", "a'", "a\0"] {
            assert!(Owner::new(part, "hedgerow", "shop", "inventory").is_err(), "{part:?}");
            assert!(Owner::new("c5a8", part, "shop", "inventory").is_err(), "{part:?}");
            assert!(Owner::new("c5a8", "hedgerow", part, "inventory").is_err(), "{part:?}");
            assert!(Owner::new("c5a8", "hedgerow", "shop", part).is_err(), "{part:?}");
        }
    }

    #[test]
    fn adoption_names_the_current_owner_in_full() {
        assert_eq!("unmarked".parse(), Ok(Adoption::Unowned));
        assert_eq!(owner().to_string().parse(), Ok(Adoption::OwnedBy(owner())));
        assert!("true".parse::<Adoption>().is_err());
    }

    #[test]
    fn another_cluster_is_another_owner() {
        let comment = owner().to_string();
        let elsewhere = Owner::new("d7b1", "hedgerow", "shop", "inventory").unwrap();
        let read = |owner: &Owner| Ownership::read(Some(&comment), owner, &Adoption::None);
        assert_eq!(read(&owner()), Ownership::Owned);
        assert_eq!(read(&elsewhere), Ownership::Other(owner()));
        assert_eq!(read(&owner().without_cluster()), Ownership::Other(owner()));
    }
}
