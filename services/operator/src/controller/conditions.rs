//! Turns the results of a reconcile into the conditions that `kubectl` and Helm read.
//!
//! `Ready`, `Reconciling` and `Stalled` follow kstatus: at most one of the last two is true, and tools that wait for an
//! object give up as soon as it is `Stalled`.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use ConditionResult::{Pending, Ready, Stalled};

/// The longest message that the API server accepts.
const MAX_MESSAGE: usize = 32 * 1024;

/// The result of one part of a reconcile: reason and message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ConditionResult {
    /// As specified.
    Ready(&'static str, String),
    /// In progress, or waiting for something that resolves itself.
    Pending(&'static str, String),
    /// Failed until someone intervenes.
    Stalled(&'static str, String),
}

impl ConditionResult {
    pub(crate) fn ready(reason: &'static str, message: impl Into<String>) -> Self {
        Ready(reason, message.into())
    }

    pub(crate) fn pending(reason: &'static str, message: impl Into<String>) -> Self {
        Pending(reason, message.into())
    }

    pub(crate) fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        Stalled(reason, message.into())
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Ready(..))
    }

    /// Reason and message.
    pub(crate) fn text(&self) -> (&'static str, &str) {
        match self {
            Ready(reason, message) | Pending(reason, message) | Stalled(reason, message) => (reason, message),
        }
    }
}

/// The results of all parts. Parts that the spec does not need are `None`.
#[derive(Debug, Clone)]
pub(crate) struct ConditionResults {
    pub(crate) database: Option<ConditionResult>,
    pub(crate) migrated: Option<ConditionResult>,
    /// Whether the children that depend on nothing are applied.
    pub(crate) children: ConditionResult,
    /// Whether any version serves requests; `None` if that cannot be found out now.
    pub(crate) available: Option<ConditionResult>,
    /// Whether only the specified version runs, with enough pods.
    pub(crate) rollout: ConditionResult,
    pub(crate) scaling: Option<ConditionResult>,
    pub(crate) route: Option<ConditionResult>,
}

impl ConditionResults {
    /// Those of the pods alone, for a status in which the other parts are not reconciled.
    pub(crate) fn of_pods(available: Option<ConditionResult>, rollout: ConditionResult) -> Self {
        let children = ConditionResult::ready("Applied", "");
        Self { database: None, migrated: None, children, available, rollout, scaling: None, route: None }
    }

    /// The first stalled result, else the first pending one, else ready.
    pub(crate) fn summary(&self) -> ConditionResult {
        let results = [
            self.database.as_ref(),
            self.migrated.as_ref(),
            Some(&self.children),
            Some(&self.rollout),
            self.available.as_ref(),
            self.route.as_ref(),
        ];
        let mut present = results.into_iter().flatten();
        let stalled = present.clone().find(|result| matches!(result, Stalled(..)));
        stalled.or_else(|| present.find(|result| matches!(result, Pending(..)))).cloned().unwrap_or_else(|| {
            let (_, message) = self.rollout.text();
            ConditionResult::ready("Ready", message)
        })
    }

    /// The conditions. A condition whose status is unchanged keeps its transition time from `before`.
    pub(crate) fn conditions(&self, before: &[Condition], generation: i64, now: Timestamp) -> Vec<Condition> {
        let summary = self.summary();
        let (reason, message) = summary.text();
        let of = |kind: &str, status: &str, reason: &str, message: &str| {
            condition(before, kind, status, reason, message, generation, now)
        };
        let mut all = vec![
            of("Ready", if summary.is_ready() { "True" } else { "False" }, reason, message),
            match &summary {
                Pending(..) => of("Reconciling", "True", reason, message),
                _ => of("Reconciling", "False", "Settled", ""),
            },
            match &summary {
                Stalled(..) => of("Stalled", "True", reason, message),
                _ => of("Stalled", "False", "NotStalled", ""),
            },
        ];
        let parts = [
            ("DatabaseReady", self.database.as_ref()),
            ("Migrated", self.migrated.as_ref()),
            ("Available", self.available.as_ref()),
            ("Scaling", self.scaling.as_ref()),
            ("RouteAccepted", self.route.as_ref()),
        ];
        for (kind, result) in parts {
            if let Some(result) = result {
                let (reason, message) = result.text();
                all.push(of(kind, if result.is_ready() { "True" } else { "False" }, reason, message));
            }
        }
        if self.available.is_none() {
            all.extend(before.iter().find(|condition| condition.type_ == "Available").cloned());
        }
        all
    }
}

fn condition(
    before: &[Condition],
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let since = before.iter().find(|condition| condition.type_ == kind && condition.status == status);
    let end = message.floor_char_boundary(MAX_MESSAGE);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message[..end].to_owned(),
        observed_generation: Some(generation),
        last_transition_time: since.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_ready() -> ConditionResults {
        ConditionResults {
            database: Some(ConditionResult::ready("DatabaseReady", "")),
            migrated: Some(ConditionResult::ready("Migrated", "")),
            children: ConditionResult::ready("Applied", ""),
            available: Some(ConditionResult::ready("Available", "")),
            rollout: ConditionResult::ready("RolledOut", "2 of 2 pods are ready"),
            scaling: None,
            route: None,
        }
    }

    fn status(conditions: &[Condition], kind: &str) -> (String, String) {
        let condition = conditions.iter().find(|condition| condition.type_ == kind).expect("it is there");
        (condition.status.clone(), condition.reason.clone())
    }

    #[test]
    fn ready_requires_every_part() {
        let conditions = all_ready().conditions(&[], 3, Timestamp::UNIX_EPOCH);
        assert_eq!(status(&conditions, "Ready"), ("True".into(), "Ready".into()));
        assert_eq!(status(&conditions, "Reconciling").0, "False");
        assert_eq!(status(&conditions, "Stalled").0, "False");
        let set: [fn(&mut ConditionResults, ConditionResult); 6] = [
            |results, found| results.database = Some(found),
            |results, found| results.migrated = Some(found),
            |results, found| results.children = found,
            |results, found| results.available = Some(found),
            |results, found| results.rollout = found,
            |results, found| results.route = Some(found),
        ];
        for set in set {
            let mut results = all_ready();
            set(&mut results, ConditionResult::pending("Slow", "it takes time"));
            let conditions = results.conditions(&[], 3, Timestamp::UNIX_EPOCH);
            assert_eq!(status(&conditions, "Ready"), ("False".into(), "Slow".into()));
            assert_eq!(status(&conditions, "Reconciling"), ("True".into(), "Slow".into()));
            set(&mut results, ConditionResult::stalled("Broken", "it broke"));
            let conditions = results.conditions(&[], 3, Timestamp::UNIX_EPOCH);
            assert_eq!(status(&conditions, "Stalled"), ("True".into(), "Broken".into()));
            assert_eq!(status(&conditions, "Reconciling").0, "False", "Helm keeps waiting while it is true");
        }
    }

    #[test]
    fn available_stays_while_it_cannot_be_found_out() {
        let before = all_ready().conditions(&[], 1, Timestamp::UNIX_EPOCH);
        let results = ConditionResults { available: None, ..all_ready() };
        let conditions = results.conditions(&before, 2, Timestamp::UNIX_EPOCH);
        assert_eq!(status(&conditions, "Available"), ("True".into(), "Available".into()));
    }

    #[test]
    fn stalled_takes_precedence_over_pending() {
        let mut results = all_ready();
        results.database = Some(ConditionResult::pending("ServerUnreachable", ""));
        results.rollout = ConditionResult::stalled("ImagePull", "");
        assert_eq!(results.summary(), ConditionResult::stalled("ImagePull", ""));
    }

    #[test]
    fn an_autoscaler_problem_does_not_affect_ready() {
        let results = ConditionResults { scaling: Some(ConditionResult::pending("NoMetrics", "")), ..all_ready() };
        let conditions = results.conditions(&[], 1, Timestamp::UNIX_EPOCH);
        assert_eq!(status(&conditions, "Scaling"), ("False".into(), "NoMetrics".into()));
        assert_eq!(status(&conditions, "Ready").0, "True");
    }

    #[test]
    fn a_transition_time_stays_until_the_status_changes() {
        let then = Timestamp::UNIX_EPOCH;
        let now = Timestamp::from_second(1000).expect("a time");
        let before = all_ready().conditions(&[], 1, then);
        let mut results = all_ready();
        results.migrated = Some(ConditionResult::stalled("MigrationFailed", "0002_x.sql: syntax error"));
        let after = results.conditions(&before, 2, now);
        let time = |kind: &str| after.iter().find(|c| c.type_ == kind).expect("it is there").last_transition_time.0;
        assert_eq!(time("DatabaseReady"), then);
        assert_eq!(time("Migrated"), now);
        assert_eq!(time("Ready"), now);
    }
}
