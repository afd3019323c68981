//! What was found about an object, put into the conditions that `kubectl` and Helm read.
//!
//! `Ready`, `Reconciling` and `Stalled` follow kstatus: of the last two at most one is true, and a wait for the object
//! ends at once when it is `Stalled`.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// The longest message the API server takes.
const LONGEST_MESSAGE: usize = 32 * 1024;

/// One aspect of a service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Finding {
    /// As asked for.
    Good(&'static str, String),
    /// On its way, or waiting for something that may come by itself.
    Pending(&'static str, String),
    /// Wrong, until somebody does something about it.
    Wrong(&'static str, String),
}

use Finding::{Good, Pending, Wrong};

impl Finding {
    pub(crate) fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Good(reason, message.into())
    }

    pub(crate) fn pending(reason: &'static str, message: impl Into<String>) -> Self {
        Pending(reason, message.into())
    }

    pub(crate) fn wrong(reason: &'static str, message: impl Into<String>) -> Self {
        Wrong(reason, message.into())
    }

    pub(crate) fn is_good(&self) -> bool {
        matches!(self, Good(..))
    }

    /// Reason and message.
    pub(crate) fn text(&self) -> (&'static str, &str) {
        match self {
            Good(reason, message) | Pending(reason, message) | Wrong(reason, message) => (reason, message),
        }
    }
}

/// All aspects; those that the spec does not ask for are left out.
#[derive(Debug, Clone)]
pub(crate) struct Findings {
    pub(crate) database: Option<Finding>,
    pub(crate) migrated: Option<Finding>,
    /// The children that nothing waits for are applied.
    pub(crate) children: Finding,
    /// Some version of it serves.
    pub(crate) available: Finding,
    /// The version asked for is the only one, in the number asked for.
    pub(crate) rollout: Finding,
    pub(crate) scaling: Option<Finding>,
    pub(crate) route: Option<Finding>,
}

impl Findings {
    /// The first thing that is wrong; else the first that is not there yet; else that all is well.
    pub(crate) fn verdict(&self) -> Finding {
        let aspects = [
            self.database.as_ref(),
            self.migrated.as_ref(),
            Some(&self.children),
            Some(&self.rollout),
            Some(&self.available),
            self.route.as_ref(),
        ];
        let mut aspects_found = aspects.into_iter().flatten();
        let wrong = aspects_found.clone().find(|finding| matches!(finding, Wrong(..)));
        wrong.or_else(|| aspects_found.find(|finding| matches!(finding, Pending(..)))).cloned().unwrap_or_else(|| {
            let (_, message) = self.rollout.text();
            Finding::good("Ready", message)
        })
    }

    /// The conditions, each with the time of its last change taken over from `before`.
    pub(crate) fn conditions(&self, before: &[Condition], generation: i64, now: Timestamp) -> Vec<Condition> {
        let verdict = self.verdict();
        let (reason, message) = verdict.text();
        let of = |kind: &str, status: &str, reason: &str, message: &str| {
            condition(before, kind, status, reason, message, generation, now)
        };
        let mut all = vec![
            of("Ready", if verdict.is_good() { "True" } else { "False" }, reason, message),
            match &verdict {
                Pending(..) => of("Reconciling", "True", reason, message),
                _ => of("Reconciling", "False", "Settled", ""),
            },
            match &verdict {
                Wrong(..) => of("Stalled", "True", reason, message),
                _ => of("Stalled", "False", "NotStalled", ""),
            },
        ];
        let aspects = [
            ("DatabaseReady", self.database.as_ref()),
            ("Migrated", self.migrated.as_ref()),
            ("Available", Some(&self.available)),
            ("Scaling", self.scaling.as_ref()),
            ("RouteAccepted", self.route.as_ref()),
        ];
        for (kind, finding) in aspects {
            if let Some(finding) = finding {
                let (reason, message) = finding.text();
                all.push(of(kind, if finding.is_good() { "True" } else { "False" }, reason, message));
            }
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
    let end = message.floor_char_boundary(LONGEST_MESSAGE);
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

    fn all_good() -> Findings {
        Findings {
            database: Some(Finding::good("DatabaseReady", "")),
            migrated: Some(Finding::good("Migrated", "")),
            children: Finding::good("Applied", ""),
            available: Finding::good("Available", ""),
            rollout: Finding::good("RolledOut", "2 of 2 pods are ready"),
            scaling: None,
            route: None,
        }
    }

    fn status(conditions: &[Condition], kind: &str) -> (String, String) {
        let condition = conditions.iter().find(|condition| condition.type_ == kind).expect("it is there");
        (condition.status.clone(), condition.reason.clone())
    }

    #[test]
    fn ready_only_when_everything_is() {
        let conditions = all_good().conditions(&[], 3, Timestamp::UNIX_EPOCH);
        assert_eq!(status(&conditions, "Ready"), ("True".into(), "Ready".into()));
        assert_eq!(status(&conditions, "Reconciling").0, "False");
        assert_eq!(status(&conditions, "Stalled").0, "False");
        let spoil: [fn(&mut Findings, Finding); 6] = [
            |findings, found| findings.database = Some(found),
            |findings, found| findings.migrated = Some(found),
            |findings, found| findings.children = found,
            |findings, found| findings.available = found,
            |findings, found| findings.rollout = found,
            |findings, found| findings.route = Some(found),
        ];
        for spoil in spoil {
            let mut findings = all_good();
            spoil(&mut findings, Finding::pending("Slow", "it takes time"));
            let conditions = findings.conditions(&[], 3, Timestamp::UNIX_EPOCH);
            assert_eq!(status(&conditions, "Ready"), ("False".into(), "Slow".into()));
            assert_eq!(status(&conditions, "Reconciling"), ("True".into(), "Slow".into()));
            spoil(&mut findings, Finding::wrong("Broken", "it broke"));
            let conditions = findings.conditions(&[], 3, Timestamp::UNIX_EPOCH);
            assert_eq!(status(&conditions, "Stalled"), ("True".into(), "Broken".into()));
            assert_eq!(status(&conditions, "Reconciling").0, "False", "Helm waits for what is reconciling");
        }
    }

    #[test]
    fn what_is_wrong_does_not_hide_behind_what_is_slow() {
        let mut findings = all_good();
        findings.database = Some(Finding::pending("ServerUnreachable", ""));
        findings.rollout = Finding::wrong("ImagePull", "");
        assert_eq!(findings.verdict(), Finding::wrong("ImagePull", ""));
    }

    #[test]
    fn trouble_of_the_autoscaler_does_not_make_it_unready() {
        let findings = Findings { scaling: Some(Finding::pending("NoMetrics", "")), ..all_good() };
        let conditions = findings.conditions(&[], 1, Timestamp::UNIX_EPOCH);
        assert_eq!(status(&conditions, "Scaling"), ("False".into(), "NoMetrics".into()));
        assert_eq!(status(&conditions, "Ready").0, "True");
    }

    #[test]
    fn a_transition_time_stays_until_the_status_changes() {
        let then = Timestamp::UNIX_EPOCH;
        let now = Timestamp::from_second(1000).expect("a time");
        let before = all_good().conditions(&[], 1, then);
        let mut findings = all_good();
        findings.migrated = Some(Finding::wrong("MigrationFailed", "0002_x.sql: syntax error"));
        let after = findings.conditions(&before, 2, now);
        let time = |kind: &str| after.iter().find(|c| c.type_ == kind).expect("it is there").last_transition_time.0;
        assert_eq!(time("DatabaseReady"), then);
        assert_eq!(time("Migrated"), now);
        assert_eq!(time("Ready"), now);
    }
}
