//! Which services may call this one.

use std::{collections::BTreeSet, convert::Infallible, str::FromStr};

use api::identity::ANY;
use identity::{Caller, Kind, Refusal};

/// The services that may call this one, by the subjects of their tokens. Users, machines and administrators are not
/// affected: what they may do is for the operations to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AllowFrom {
    /// All services.
    #[default]
    Any,
    /// These services, and no others.
    Only(BTreeSet<Box<str>>),
}

impl AllowFrom {
    /// Refuses a service that is not among those that may call.
    pub(crate) fn check(&self, caller: &Caller) -> Result<(), Refusal> {
        match self {
            Self::Only(subjects)
                if caller.kind() == Kind::Service && !subjects.contains(caller.subject()) && !caller.is_admin() =>
            {
                Err(Refusal::NotAdmitted(caller.subject().into()))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for AllowFrom {
    type Err = Infallible;

    /// Parses subjects separated by commas, or `any`. An empty text admits no service.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        if text.trim() == ANY {
            return Ok(Self::Any);
        }
        let subjects = text.split(',').map(str::trim).filter(|subject| !subject.is_empty());
        Ok(Self::Only(subjects.map(Box::from).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_subjects_and_an_empty_one_admits_nobody() {
        let parse = |text: &str| text.parse::<AllowFrom>().unwrap_or_else(|error| match error {});
        let only = |subjects: &[&str]| AllowFrom::Only(subjects.iter().map(|&subject| subject.into()).collect());
        assert_eq!(parse("any"), AllowFrom::Any);
        assert_eq!(parse(" any\n"), AllowFrom::Any);
        assert_eq!(parse(""), only(&[]));
        assert_eq!(parse("a:b, c,,"), only(&["a:b", "c"]));
        // In a list, it is a subject like any other.
        assert_eq!(parse("any,a"), only(&["any", "a"]));
    }
}
