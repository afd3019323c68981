//! Checks that a role and a database belong to the object that asks for them. Pure.

use super::{
    error::Error,
    identifier::Identifier,
    owner::{Adoption, Owner},
    state::State,
};

/// The databases of every server.
const RESERVED: [&str; 3] = ["postgres", "template0", "template1"];

/// Checks that neither the role nor the database of that name belongs to something else.
///
/// If the role owns the database, one ownership comment is enough: the other one may not have been written yet, or may
/// have been lost.
pub(super) fn check(state: &State, name: &Identifier, owner: &Owner, adoption: &Adoption) -> Result<(), Error> {
    if RESERVED.contains(&name.raw()) || name.raw() == state.admin.name || name.raw() == state.admin.home {
        return Err(Error::NotOwned(format!("the name {name} is reserved by the server: choose another name")));
    }
    let ownership = |comment: &Option<String>| Ownership::read(comment.as_deref(), owner, adoption);
    let role = state.role.as_ref().map(|role| ownership(&role.comment));
    let database = state.database.as_ref().map(|database| ownership(&database.comment));

    if state.role.as_ref().is_some_and(|role| role.superuser) && role != Some(Ownership::Owned) {
        return Err(Error::NotOwned(format!("the role {name} is a superuser: choose another name")));
    }
    let role_owns_database = state.database.as_ref().is_some_and(|database| database.owner == name.raw());
    let proven = role_owns_database && (role == Some(Ownership::Owned) || database == Some(Ownership::Owned));
    for (ownership, what) in [(role, "role"), (database, "database")] {
        match ownership {
            Some(Ownership::Unmarked) if !proven => {
                return Err(Error::NotOwned(format!(
                    "the {what} {name} was not created by Hedgerow: drop it, choose another name, or adopt it with the \
                     annotation hedgerow.dev/adopt: unmarked"
                )));
            }
            Some(Ownership::Other(owner)) => {
                return Err(Error::OwnedByOther { what: format!("the {what} {name}"), owner });
            }
            _ => {}
        }
    }
    Ok(())
}

/// How a role or database relates to an object, by its comment.
#[derive(Debug, PartialEq)]
enum Ownership {
    /// The object owns it.
    Owned,
    /// The object may adopt it.
    Adoptable,
    /// It has no ownership comment.
    Unmarked,
    /// Another object owns it.
    Other(Owner),
}

impl Ownership {
    fn read(comment: Option<&str>, owner: &Owner, adoption: &Adoption) -> Self {
        match (comment.and_then(|comment| comment.parse::<Owner>().ok()), adoption) {
            (Some(found), _) if found == *owner => Self::Owned,
            (Some(found), Adoption::OwnedBy(adopted)) if found == *adopted => Self::Adoptable,
            (Some(found), _) => Self::Other(found),
            (None, Adoption::Unmarked) => Self::Adoptable,
            (None, _) => Self::Unmarked,
        }
    }
}
