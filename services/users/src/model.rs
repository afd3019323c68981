//! The domain's types: values that cannot be invalid. No I/O.

mod user;
mod wishlist;

pub(crate) use contracts::ProductId;
pub(crate) use user::{Email, InvalidId, Name, NewUser, User, UserId};
pub(crate) use wishlist::{MAX_WISHES, Stocks, Wish, Wishes, Wishlist};
