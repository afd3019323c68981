//! Services that flags name.

use std::str::FromStr;

/// One or several, as one flag or the variable has them.
#[derive(Debug, Clone)]
pub(super) struct Routes;

impl FromStr for Routes {
    type Err = String;

    fn from_str(_: &str) -> Result<Self, String> {
        Ok(Self)
    }
}
