//! What clients know about their requests, compared with the database.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use sqlx::PgConnection;

use super::shop::{BULK, CRATE};

/// What a client knows about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect. For a hold this is its id.
    Acknowledged(String),
    /// It had no effect.
    Refused,
    /// It may have taken effect.
    Unknown,
}

/// Requests by their numbers, which their effects carry too.
#[derive(Debug, Default)]
pub struct Notes {
    pub holds: HashMap<i64, Outcome>,
    pub adjusts: HashMap<i64, Outcome>,
    /// The final states of reservations, if known.
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

    fn count(&self, matches: impl Fn(&Outcome) -> bool) -> usize {
        self.holds.values().chain(self.adjusts.values()).filter(|outcome| matches(outcome)).count()
    }

    /// Whether every kind of outcome occurred.
    pub fn covers_everything(&self) -> bool {
        let acknowledged = self.count(|outcome| matches!(outcome, Outcome::Acknowledged(_)));
        let refused = self.count(|outcome| *outcome == Outcome::Refused);
        let unknown = self.count(|outcome| *outcome == Outcome::Unknown);
        acknowledged > 100 && refused > 100 && unknown > 0 && self.repeated > 0 && self.expired > 0
    }

    /// Compares the notes with the database: acknowledged requests took effect once, refused ones not at all, and
    /// unknown ones at most once.
    pub async fn check(&self, connection: &mut PgConnection) {
        let holds: Vec<(i64, String)> = sqlx::query_as(
            "SELECT reserved_delta, reservation_id::text FROM movement WHERE kind = 'hold' AND product_id IN ($1, $2)",
        )
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
        let states = "SELECT id::text, CASE WHEN state = 'held' AND expires_at <= clock_timestamp() THEN 'expired' ELSE state END
                      FROM reservation";
        let states: Vec<(String, String)> =
            sqlx::query_as(states).fetch_all(connection).await.expect("the reservations");
        let states: HashMap<String, String> = states.into_iter().collect();
        for (id, state) in &self.ends {
            assert_eq!(states.get(id), Some(state), "the final state of {id}");
        }
    }
}

fn compare(kind: &str, outcomes: &HashMap<i64, Outcome>, found: &[(i64, String)]) {
    let mut seen = HashSet::new();
    for (number, id) in found {
        assert!(seen.insert(number), "{kind} {number} took effect twice");
        match outcomes.get(number) {
            Some(Outcome::Acknowledged(known)) if kind == "hold" => assert_eq!(known, id, "{kind} {number}"),
            Some(Outcome::Acknowledged(_) | Outcome::Unknown) => {}
            other => panic!("{kind} {number} took effect, but was {other:?}"),
        }
    }
    for (number, outcome) in outcomes {
        assert!(!matches!(outcome, Outcome::Acknowledged(_)) || seen.contains(number), "{kind} {number} is lost");
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acknowledged = self.count(|outcome| matches!(outcome, Outcome::Acknowledged(_)));
        let refused = self.count(|outcome| *outcome == Outcome::Refused);
        let unknown = self.count(|outcome| *outcome == Outcome::Unknown);
        let (ends, repeated, expired) = (self.ends.len(), self.repeated, self.expired);
        write!(f, "{acknowledged} acknowledged, {refused} refused, {unknown} unknown, ")?;
        write!(f, "{ends} ended, {repeated} repeated, {expired} expired")
    }
}
