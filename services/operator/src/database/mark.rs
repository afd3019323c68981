//! Whose a database is, as a comment on it and on its role: the operator touches nothing else.

use std::{fmt, str::FromStr};

use super::Invalid;

/// What every mark begins with. Databases in the field carry it: it never changes.
const PREFIX: &str = "hedgerow.dev/microservice ";

/// The object that a role and a database belong to.
///
/// As text it is the comment on both: `hedgerow.dev/microservice INSTALLATION/NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    installation: String,
    namespace: String,
    name: String,
}

impl Mark {
    /// The mark of an object. The installation tells apart the clusters that share a server.
    ///
    /// # Errors
    /// Where a part is empty, or has other characters than ASCII letters, digits, `-`, `.` and `_`.
    pub fn new(
        installation: impl Into<String>,
        namespace: impl Into<String>,
        name: impl Into<String>,
    ) -> Result<Self, Invalid> {
        let mark = Self { installation: installation.into(), namespace: namespace.into(), name: name.into() };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let parts = [&mark.installation, &mark.namespace, &mark.name];
        if parts.iter().any(|part| part.is_empty() || !part.chars().all(plain)) {
            return Err(Invalid("an installation, a namespace and a name have only ASCII letters, digits, -, . and _"));
        }
        Ok(mark)
    }

    /// The installation of the operator.
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

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}/{}", self.installation, self.namespace, self.name)
    }
}

impl FromStr for Mark {
    type Err = Invalid;

    fn from_str(comment: &str) -> Result<Self, Invalid> {
        let mut parts = comment.strip_prefix(PREFIX).into_iter().flat_map(|parts| parts.split('/'));
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(installation), Some(namespace), Some(name), None) => Self::new(installation, namespace, name),
            _ => Err(Invalid("a mark is `hedgerow.dev/microservice INSTALLATION/NAMESPACE/NAME`")),
        }
    }
}

/// What may be taken over although it does not carry the object's own mark; parsed from an annotation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Adopt {
    /// Nothing.
    #[default]
    Nothing,
    /// What carries no mark, such as a database restored from a dump: `unmarked`.
    Unmarked,
    /// What carries this mark, such as that of a cluster that is gone. It is spelled out, so that a manifest copied
    /// elsewhere takes nothing from anyone.
    Marked(Mark),
}

impl FromStr for Adopt {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "unmarked" => Ok(Self::Unmarked),
            mark => mark
                .parse()
                .map(Self::Marked)
                .map_err(|_| Invalid("what to adopt is `unmarked`, or the mark that is on the database now")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let mark = Mark::new("c5a8", "shop", "inventory").unwrap();
        assert_eq!(mark.to_string(), "hedgerow.dev/microservice c5a8/shop/inventory");
        assert_eq!(mark.to_string().parse(), Ok(mark));
    }

    #[test]
    fn other_comments_are_no_marks() {
        for text in ["", "ask Ada", "hedgerow.dev/microservice a/b", "hedgerow.dev/microservice a/b/c/d", "a/b/c"] {
            assert!(text.parse::<Mark>().is_err(), "{text}");
        }
        for part in ["", "a/b", "a b", r"a\", "a'", "a\0"] {
            assert!(Mark::new(part, "shop", "inventory").is_err(), "{part:?}");
            assert!(Mark::new("c5a8", part, "inventory").is_err(), "{part:?}");
            assert!(Mark::new("c5a8", "shop", part).is_err(), "{part:?}");
        }
    }

    #[test]
    fn what_is_adopted_is_said_in_full() {
        let mark = Mark::new("c5a8", "shop", "inventory").unwrap();
        assert_eq!("unmarked".parse(), Ok(Adopt::Unmarked));
        assert_eq!(mark.to_string().parse(), Ok(Adopt::Marked(mark)));
        assert!("true".parse::<Adopt>().is_err());
    }
}
