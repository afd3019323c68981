//! The ownership comment on a role and its database. The operator touches nothing that it does not own.

use std::{fmt, str::FromStr};

use super::identifier::Invalid;

/// The prefix of every ownership comment. Existing databases carry it, so it must never change.
pub(super) const PREFIX: &str = "hedgerow.dev/microservice ";

/// The value of the annotation `hedgerow.dev/adopt` that adopts what has no ownership comment.
pub(super) const UNMARKED: &str = "unmarked";

/// The `Microservice` that owns a role and a database.
///
/// Its text form is the comment on both: `hedgerow.dev/microservice INSTALLATION/NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    installation: String,
    namespace: String,
    name: String,
}

impl Owner {
    /// Creates the owner for an object. The installation distinguishes clusters that share a server.
    ///
    /// # Errors
    /// Returns an error if a part is empty or contains anything but ASCII letters, digits, `-`, `.` and `_`.
    pub fn new(
        installation: impl Into<String>,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Result<Self, Invalid> {
        let owner = Self { installation: installation.into(), namespace: namespace.into(), name: name.into() };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let parts = [&owner.installation, &owner.namespace, &owner.name];
        if parts.iter().any(|part| part.is_empty() || !part.chars().all(plain)) {
            return Err(Invalid(
                "installation, namespace and name must be non-empty and consist of ASCII letters, digits, '-', '.' \
                 and '_'",
            ));
        }
        Ok(owner)
    }

    /// The operator's installation.
    #[must_use]
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// The namespace of the object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}/{}", self.installation, self.namespace, self.name)
    }
}

impl FromStr for Owner {
    type Err = Invalid;

    fn from_str(comment: &str) -> Result<Self, Invalid> {
        let mut parts = comment.strip_prefix(PREFIX).into_iter().flat_map(|parts| parts.split('/'));
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(installation), Some(namespace), Some(name), None) => Self::new(installation, namespace, name),
            _ => Err(Invalid(
                "an ownership comment has the form `hedgerow.dev/microservice INSTALLATION/NAMESPACE/NAME`",
            )),
        }
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

    #[test]
    fn an_ownership_comment_round_trips() {
        let owner = Owner::new("c5a8", "shop", "inventory").unwrap();
        assert_eq!(owner.to_string(), "hedgerow.dev/microservice c5a8/shop/inventory");
        assert_eq!(owner.to_string().parse(), Ok(owner));
    }

    #[test]
    fn other_comments_are_not_ownership_comments() {
        for text in ["", "ask Ada", "hedgerow.dev/microservice a/b", "hedgerow.dev/microservice a/b/c/d", "a/b/c"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
        for part in ["", "a/b", "a b", r"a\", "a'", "a\0"] {
            assert!(Owner::new(part, "shop", "inventory").is_err(), "{part:?}");
            assert!(Owner::new("c5a8", part, "inventory").is_err(), "{part:?}");
            assert!(Owner::new("c5a8", "shop", part).is_err(), "{part:?}");
        }
    }

    #[test]
    fn adoption_names_the_current_owner_in_full() {
        let owner = Owner::new("c5a8", "shop", "inventory").unwrap();
        assert_eq!("unmarked".parse(), Ok(Adoption::Unowned));
        assert_eq!(owner.to_string().parse(), Ok(Adoption::OwnedBy(owner)));
        assert!("true".parse::<Adoption>().is_err());
    }
}
