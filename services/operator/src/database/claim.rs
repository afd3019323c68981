//! Whose a role and a database are, told by their marks. Pure.

use super::{Adopt, Error, Mark, identifier::Identifier, state::State};

/// What every server has.
const RESERVED: [&str; 3] = ["postgres", "template0", "template1"];

/// Checks that nothing of that name is somebody else's.
///
/// One mark is enough where the role owns the database: the other one was not written yet, or was lost.
pub(super) fn check(state: &State, name: &Identifier, mark: &Mark, adopt: &Adopt) -> Result<(), Error> {
    if RESERVED.contains(&name.raw()) || name.raw() == state.admin.name || name.raw() == state.admin.home {
        return Err(Error::NotOurs(format!("the name {name} is the server's own: choose another")));
    }
    let claim = |comment: &Option<String>| Claim::read(comment.as_deref(), mark, adopt);
    let role = state.role.as_ref().map(|role| claim(&role.comment));
    let database = state.database.as_ref().map(|database| claim(&database.comment));

    if state.role.as_ref().is_some_and(|role| role.superuser) && role != Some(Claim::Ours) {
        return Err(Error::NotOurs(format!("the role {name} is a superuser: choose another name")));
    }
    let owned = state.database.as_ref().is_some_and(|database| database.owner == name.raw());
    let proven = owned && (role == Some(Claim::Ours) || database == Some(Claim::Ours));
    for (claim, what) in [(role, "role"), (database, "database")] {
        match claim {
            Some(Claim::Nobodys) if !proven => {
                return Err(Error::NotOurs(format!(
                    "the {what} {name} was not made by Hedgerow: drop it, choose another name, or adopt it as \
                     \"unmarked\""
                )));
            }
            Some(Claim::Others(mark)) => return Err(Error::TakenBy { what: format!("the {what} {name}"), mark }),
            _ => {}
        }
    }
    Ok(())
}

/// What a comment means to an object.
#[derive(Debug, PartialEq)]
enum Claim {
    /// It carries its mark.
    Ours,
    /// It may take this over.
    Adopted,
    /// There is no mark.
    Nobodys,
    /// There is another object's.
    Others(Mark),
}

impl Claim {
    fn read(comment: Option<&str>, mark: &Mark, adopt: &Adopt) -> Self {
        match (comment.and_then(|comment| comment.parse::<Mark>().ok()), adopt) {
            (Some(found), _) if found == *mark => Self::Ours,
            (Some(found), Adopt::Marked(adopted)) if found == *adopted => Self::Adopted,
            (Some(found), _) => Self::Others(found),
            (None, Adopt::Unmarked) => Self::Adopted,
            (None, _) => Self::Nobodys,
        }
    }
}
