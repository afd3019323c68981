//! Migrations whose pod does not exist, does not run, or has ended.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{super::super::conditions::ConditionResult, Fixture, JOBS, PODS, is_migrating, seconds_ago, spec};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

impl Fixture {
    fn change_job(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut job = self.job(name).expect("the Job");
        change(&mut job);
        self.server.put(&format!("{JOBS}/{name}"), job);
    }

    fn change_pod(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let path = format!("{PODS}/{name}");
        let mut pod = self.server.get(&path).expect("the pod");
        change(&mut pod);
        self.server.put(&path, pod);
    }

    /// Records that the pod of a Job was refused, as the Job controller does.
    fn refuse_pod(&self, job: &str, seconds: i64, message: &str) {
        let event = json!({
            "metadata": { "name": format!("refused-{seconds}") }, "eventTime": null, "reason": "FailedCreate",
            "note": format!("Error creating: {message}"), "deprecatedLastTimestamp": seconds_ago(seconds),
            "regarding": { "kind": "Job", "uid": self.job(job).expect("the Job")["metadata"]["uid"] },
        });
        self.server.put(&format!("{EVENTS}/refused-{seconds}"), event);
    }
}

#[tokio::test]
async fn a_migration_without_a_pod_is_not_running() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let name = fixture.job_name();
    let starting = ConditionResult::pending("Migrating", "the migration is starting");
    fixture.change_job(&name, |job| job["status"]["startTime"] = seconds_ago(2).into());
    assert_eq!(fixture.migrate().await, starting);
    fixture.change_job(&name, |job| job["status"]["startTime"] = seconds_ago(20).into());
    let result = fixture.migrate().await;
    assert!(is_migrating(&result) && result.text().1.contains("has no pod"), "{result:?}");

    let quota = "pods \"x\" is forbidden: exceeded quota: small, requested: pods=1";
    fixture.refuse_pod(&name, 10, "pods \"x\" is forbidden: the cause of before");
    fixture.refuse_pod(&name, 5, quota);
    assert_eq!(fixture.migrate().await, ConditionResult::pending("QuotaExceeded", quota));
    let policy = "pods \"x\" is forbidden: violates PodSecurity \"restricted\"";
    fixture.refuse_pod(&name, 1, policy);
    assert_eq!(fixture.migrate().await, ConditionResult::pending("PodsRefused", policy));

    fixture.pod(&name, None);
    fixture.change_pod(&name, |pod| pod["status"] = json!({ "phase": "Pending" }));
    assert_eq!(fixture.migrate().await, starting, "the quota has room again");
    fixture.pod(&name, None);
    assert_eq!(fixture.migrate().await, ConditionResult::pending("Migrating", "the migration is running"));
}

#[tokio::test]
async fn the_events_of_a_job_are_not_needed() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let name = fixture.job_name();
    fixture.change_job(&name, |job| job["status"]["startTime"] = seconds_ago(20).into());
    fixture.server.refuse(Method::GET, "/events", StatusCode::FORBIDDEN, "events may not be listed");
    let result = fixture.migrate().await;
    assert!(is_migrating(&result) && result.text().1.contains("has no pod"), "{result:?}");
}

#[tokio::test]
async fn a_retry_whose_pod_is_refused_is_reported() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let name = fixture.job_name();
    fixture.change_job(&name, |job| job["status"]["startTime"] = seconds_ago(60).into());
    fixture.refuse_pod(&name, 50, "it was refused at first");
    fixture.pod(&name, Some((75, "the connection was refused")));
    fixture.change_pod(&name, |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = seconds_ago(30).into();
    });
    let text = "retrying the migration, which last ended with exit code 75: the connection was refused";
    assert_eq!(fixture.migrate().await, ConditionResult::pending("Migrating", text));
    fixture.refuse_pod(&name, 10, "it is refused now");
    assert_eq!(fixture.migrate().await, ConditionResult::pending("PodsRefused", "it is refused now"));
}

#[tokio::test]
async fn a_migration_that_succeeded_is_finishing() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    fixture.pod(&fixture.job_name(), Some((0, "{\"schemaVersion\":3}")));
    assert_eq!(fixture.migrate().await, ConditionResult::pending("Migrating", "the migration is finishing"));
}

#[tokio::test]
async fn a_suspended_migration_is_not_running() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let name = fixture.job_name();
    for (field, value) in [("suspend", json!(true)), ("parallelism", json!(0))] {
        fixture.change_job(&name, |job| job["spec"][field] = value.clone());
        let result = fixture.migrate().await;
        let text = format!(
            "the migration does not run: spec.{field} is {value} of Job {name}. Delete the Job to start it again"
        );
        assert_eq!(result, ConditionResult::pending("MigrationSuspended", text));
        fixture.change_job(&name, |job| job["spec"][field] = Value::Null);
    }
}

#[tokio::test]
async fn a_migration_whose_pod_was_always_refused_has_not_failed() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let name = fixture.job_name();
    fixture.change_job(&name, |job| job["status"]["startTime"] = seconds_ago(700).into());
    fixture.refuse_pod(&name, 200, "exceeded quota: small");
    fixture.end(&name, "Failed", 60);
    assert_eq!(fixture.migrate().await, ConditionResult::pending("QuotaExceeded", "exceeded quota: small"));
    assert_eq!(fixture.server.take_writes(), [], "it is retried later");
    fixture.end(&name, "Failed", 3 * 60);
    fixture.migrate().await;
    let retry = fixture.job(&format!("{name}-2")).expect("a Job");
    assert_eq!(retry["metadata"]["annotations"]["hedgerow.dev/migration-failure"], Value::Null);
}

#[tokio::test]
async fn a_migration_that_ran_has_failed_although_it_was_refused_once() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let name = fixture.job_name();
    fixture.change_job(&name, |job| job["status"]["startTime"] = seconds_ago(700).into());
    fixture.refuse_pod(&name, 690, "exceeded quota: small");
    fixture.end(&name, "Failed", 60);
    fixture.change_job(&name, |job| job["status"]["failed"] = 1.into());
    let result = fixture.migrate().await;
    assert!(matches!(result, ConditionResult::Stalled("MigrationFailed", _)), "{result:?}");
}
