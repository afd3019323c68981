//! How long data is kept.

use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};

const DAY: Duration = Duration::from_hours(24);

/// The shortest retention. A reservation can be held for a day, and responses to requests with an `Idempotency-Key` are
/// repeated for a day: they must not name a reservation that is gone. The second day is for clocks that differ.
const MIN: Duration = DAY.saturating_mul(2);

/// The longest retention, so that no time of the database is out of range.
const MAX: Duration = DAY.saturating_mul(36_500);

/// How long data is kept after it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long a reservation can be read after it was made.
    pub reservations: Duration,
    /// How long a movement can be read; forever if `None`. At least as long as its reservation.
    pub ledgers: Option<Duration>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { reservations: DAY.saturating_mul(30), ledgers: None }
    }
}

/// The flags, before they are compared.
#[derive(Args)]
struct Flags {
    /// How long reservations are kept after they were made: 2d to 36500d
    #[arg(long = "reservation-retention", env = "RESERVATION_RETENTION")]
    #[arg(global = true, value_name = "TIME", default_value = "30d", value_parser = parse)]
    reservations: Duration,
    /// How long movements are kept, at least as long as reservations; an opening movement of each product stands for
    /// older ones; if unset, all movements are kept
    #[arg(long = "ledger-retention", env = "LEDGER_RETENTION", global = true, value_name = "TIME", value_parser = parse)]
    ledgers: Option<Duration>,
}

fn parse(text: &str) -> Result<Duration, String> {
    let retention = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if retention < MIN {
        return Err("must be at least 2d: a reservation can be held, and a request repeated, for a day".to_owned());
    }
    if retention > MAX {
        return Err("must be at most 36500d".to_owned());
    }
    Ok(retention)
}

impl FromArgMatches for Retention {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Flags { reservations, ledgers } = Flags::from_arg_matches(matches)?;
        if ledgers.is_some_and(|ledgers| ledgers < reservations) {
            let message = "--ledger-retention must be at least --reservation-retention: a reservation is kept with its \
                           movements";
            return Err(clap::Error::raw(ErrorKind::ValueValidation, message));
        }
        Ok(Self { reservations, ledgers })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Retention {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}
