//! The domain's types: values that cannot be invalid. No I/O.

mod access;
mod user;
mod wishlist;

pub(crate) use access::{Role, Scope};
pub(crate) use contracts::{InvalidId, ProductId, ResourceId as UserId};
pub(crate) use user::{CreatedUser, Email, Name, NewUser, User};
pub(crate) use wishlist::{MAX_WISHES, Stocks, Wish, Wishes, Wishlist};
