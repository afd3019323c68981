//! What clients know, to be compared with what is there.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use sqlx::PgConnection;

use super::client::{BULK, CRATE};

/// What a client was told of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It was done; of a hold this is its id.
    Acknowledged(String),
    /// It was not done.
    Refused,
    /// It may have been done.
    Unknown,
}

/// Requests by their numbers, which their effects bear.
#[derive(Debug, Default)]
pub struct Notes {
    pub holds: HashMap<i64, Told>,
    pub adjusts: HashMap<i64, Told>,
    /// How reservations ended, where that was told.
    pub ends: HashMap<String, String>,
    pub repeated: usize,
    pub expired: usize,
}

impl Notes {
    pub fn merge(&mut self, other: Self) {
        self.holds.extend(other.holds);
        self.adjusts.extend(other.adjusts);
        self.ends.extend(other.ends);
        self.repeated += other.repeated;
        self.expired += other.expired;
    }

    fn count(&self, matches: impl Fn(&Told) -> bool) -> usize {
        self.holds.values().chain(self.adjusts.values()).filter(|told| matches(told)).count()
    }

    /// Whether each kind of thing happened at all.
    pub fn has_seen_everything(&self) -> bool {
        let acknowledged = self.count(|told| matches!(told, Told::Acknowledged(_)));
        let refused = self.count(|told| *told == Told::Refused);
        let unknown = self.count(|told| *told == Told::Unknown);
        acknowledged > 100 && refused > 100 && unknown > 0 && self.repeated > 0 && self.expired > 0
    }

    /// Compares them with the database: what was acknowledged is there once, what was refused is not, and of what is
    /// unknown nothing is there twice.
    pub async fn check(&self, connection: &mut PgConnection) {
        let holds: Vec<(i64, String)> =
            sqlx::query_as("SELECT quantity, reservation_id::text FROM reservation_line WHERE product_id IN ($1, $2)")
                .bind(BULK)
                .bind(CRATE)
                .fetch_all(&mut *connection)
                .await
                .expect("the holds");
        compare("hold", &self.holds, &holds);
        let adjusts: Vec<(i64, String)> =
            sqlx::query_as("SELECT reason::bigint, version::text FROM movement WHERE kind = 'adjust'")
                .fetch_all(&mut *connection)
                .await
                .expect("the adjustments");
        compare("adjustment", &self.adjusts, &adjusts);
        let states: Vec<(String, String)> = sqlx::query_as("SELECT id::text, state FROM reservation")
            .fetch_all(connection)
            .await
            .expect("the reservations");
        let states: HashMap<String, String> = states.into_iter().collect();
        for (id, state) in &self.ends {
            assert_eq!(states.get(id), Some(state), "the end of {id}");
        }
    }
}

fn compare(what: &str, told: &HashMap<i64, Told>, found: &[(i64, String)]) {
    let mut seen = HashSet::new();
    for (number, id) in found {
        assert!(seen.insert(number), "{what} {number} is there twice");
        match told.get(number) {
            Some(Told::Acknowledged(known)) if what == "hold" => assert_eq!(known, id, "{what} {number}"),
            Some(Told::Acknowledged(_) | Told::Unknown) => {}
            other => panic!("{what} {number} is there, and was {other:?}"),
        }
    }
    for (number, told) in told {
        assert!(!matches!(told, Told::Acknowledged(_)) || seen.contains(number), "{what} {number} is lost");
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledged = self.count(|told| matches!(told, Told::Acknowledged(_)));
        let refused = self.count(|told| *told == Told::Refused);
        let unknown = self.count(|told| *told == Told::Unknown);
        let (ends, repeated, expired) = (self.ends.len(), self.repeated, self.expired);
        write!(f, "{acknowledged} acknowledged, {refused} refused, {unknown} unknown, ")?;
        write!(f, "{ends} ended, {repeated} repeated, {expired} expired")
    }
}
