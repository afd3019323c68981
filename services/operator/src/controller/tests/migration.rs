//! Migrations that fail, that are overtaken by another version, and that must run again.

mod pods;

use k8s_openapi::{
    api::{apps::v1::Deployment, batch::v1::Job},
    jiff::Timestamp,
};
use kube::{ResourceExt, api::ApiResource};
use serde_json::{Value, json};

use super::{
    super::{
        conditions::ConditionResult,
        database::ReadyDatabase,
        migration::{self, Migration},
    },
    Fixture, OBJECT,
};
use crate::manifests::{self, RenderInputs};
use api::Microservice;

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn spec(image: &str) -> Value {
    json!({ "image": image, "database": {} })
}

fn seconds_ago(seconds: i64) -> String {
    Timestamp::from_second(Timestamp::now().as_second() - seconds).expect("a time").to_string()
}

impl Fixture {
    fn object(&self) -> Microservice {
        serde_json::from_value(self.server.get(OBJECT).expect("the object")).expect("a Microservice")
    }

    fn manifests(&self) -> manifests::Manifests {
        manifests::render(&self.object(), &RenderInputs::default())
    }

    /// The name of the first Job of the specified migration.
    fn job_name(&self) -> String {
        self.manifests().migration.expect("a Job").name_any()
    }

    fn job(&self, name: &str) -> Option<Value> {
        self.server.get(&format!("{JOBS}/{name}"))
    }

    /// Runs the step of a reconcile, on a database whose schema has this version.
    async fn migrate_on(&self, deployment: Option<&Deployment>, schema_version: Option<i64>) -> Migration {
        let (object, job) = (self.object(), self.manifests().migration.expect("a Job"));
        let database = ReadyDatabase {
            credentials_digest: String::new(),
            ca: false,
            schema_version,
            system_identifier: None,
            is_exhausted: false,
            verified_at: Timestamp::now(),
        };
        migration::ensure(&self.context, &object, &job, deployment, Some(&database)).await
    }

    async fn migrate(&self) -> ConditionResult {
        self.migrate_on(None, None).await.result
    }

    /// Ends a Job with this condition, as the Job controller does.
    fn end(&self, job: &str, condition: &str, seconds: i64) {
        let mut ended = self.job(job).expect("the Job");
        ended["status"]["conditions"] =
            json!([{ "type": condition, "status": "True", "lastTransitionTime": seconds_ago(seconds) }]);
        self.server.put(&format!("{JOBS}/{job}"), ended);
        drop(self.server.take_writes());
    }

    /// Creates the pod of a Job. Without an exit code, it runs.
    fn pod(&self, job: &str, exit: Option<(i32, &str)>) {
        let uid = self.job(job).expect("the Job")["metadata"]["uid"].clone();
        let state = match exit {
            Some((code, message)) => json!({ "terminated": { "exitCode": code, "message": message } }),
            None => json!({ "running": {} }),
        };
        let status = json!({
            "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        });
        let phase = if exit.is_some() { "Failed" } else { "Running" };
        let pod = json!({
            "metadata": { "name": job, "labels": { "batch.kubernetes.io/controller-uid": uid } },
            "status": { "phase": phase, "containerStatuses": [status] },
        });
        self.server.put(&format!("{PODS}/{job}"), pod);
    }
}

fn failed(message: &str) -> ConditionResult {
    ConditionResult::stalled("MigrationFailed", format!("the migration failed: {message}"))
}

fn is_migrating(result: &ConditionResult) -> bool {
    matches!(result, ConditionResult::Pending("Migrating", _))
}

#[tokio::test]
async fn a_failed_migration_stays_stalled_until_an_attempt_succeeds() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    assert!(is_migrating(&fixture.migrate().await));
    let (first, second) = (fixture.job_name(), format!("{}-2", fixture.job_name()));
    fixture.pod(&first, Some((1, "0002.sql: syntax error")));
    fixture.end(&first, "Failed", 9 * 60);
    let stalled = failed("exit code 1: 0002.sql: syntax error");
    assert_eq!(fixture.migrate().await, stalled);
    assert_eq!(fixture.server.take_writes(), [], "the failed Job is kept");

    fixture.end(&first, "Failed", 11 * 60);
    assert_eq!(fixture.migrate().await, stalled);
    assert!(fixture.job(&second).is_some(), "the migration is tried again");
    assert_eq!(fixture.migrate().await, stalled, "the attempt runs");
    assert!(fixture.job(&first).is_none(), "the new Job stands for it");

    fixture.pod(&second, Some((75, "the connection was refused")));
    fixture.end(&second, "Failed", 3 * 60);
    assert_eq!(fixture.migrate().await, stalled, "an unreachable database is no progress");
    assert_eq!(fixture.migrate().await, stalled);
    assert!(fixture.job(&second).is_none());
    fixture.end(&first, "Complete", 0);
    assert!(fixture.migrate().await.is_ready());
}

#[tokio::test]
async fn an_unreachable_database_is_no_failure_of_the_migration() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let (first, second) = (fixture.job_name(), format!("{}-2", fixture.job_name()));
    fixture.pod(&first, Some((75, "the connection was refused")));
    fixture.end(&first, "Failed", 60);
    assert!(matches!(fixture.migrate().await, ConditionResult::Pending("ServerUnreachable", _)));
    assert!(fixture.job(&second).is_none(), "not yet");
    fixture.end(&first, "Failed", 3 * 60);
    fixture.migrate().await;
    assert!(fixture.job(&second).is_some());
    assert!(is_migrating(&fixture.migrate().await));
}

#[tokio::test]
async fn a_known_failure_stands_while_the_database_is_away() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    let migrated = |generation: i64| {
        json!({
            "type": "Migrated", "status": "False", "reason": "MigrationFailed", "message": "it failed",
            "lastTransitionTime": seconds_ago(60), "observedGeneration": generation,
        })
    };
    let mut object = fixture.server.get(OBJECT).expect("the object");
    for (generation, expected) in [(1, "MigrationFailed"), (0, "DatabaseMissing")] {
        object["status"] = json!({ "observedGeneration": generation, "conditions": [migrated(generation)] });
        fixture.server.put(OBJECT, object.clone());
        let (object, job) = (fixture.object(), fixture.manifests().migration.expect("a Job"));
        let migration = migration::ensure(&fixture.context, &object, &job, None, None).await;
        assert_eq!(migration.result.text().0, expected);
    }
}

#[tokio::test]
async fn another_version_waits_until_the_running_migration_has_stopped() {
    let mut fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let before = fixture.job_name();
    fixture.pod(&before, None);
    fixture.apply(spec("localhost/orders:2"), 2);
    let waits_for = |result: &ConditionResult, what: &str| {
        let expected = format!("waiting until {what} {before}");
        assert!(is_migrating(result) && result.text().1.starts_with(&expected), "{result:?}");
    };
    waits_for(&fixture.migrate().await, "the migration Job");
    assert!(fixture.job(&before).is_none(), "it is stopped");
    waits_for(&fixture.migrate().await, "pod");
    assert!(fixture.job(&fixture.job_name()).is_none());
    fixture.server.delete(&format!("{PODS}/{before}"));
    fixture.migrate().await;
    assert!(fixture.job(&fixture.job_name()).is_some());
}

#[tokio::test]
async fn going_back_to_the_version_before_stops_the_migration() {
    let mut fixture = Fixture::new(spec("localhost/orders:1"));
    let deployed = fixture.manifests().deployment;
    fixture.apply(spec("localhost/orders:2"), 2);
    fixture.migrate_on(Some(&deployed), None).await;
    let other = fixture.job_name();
    let job: Job = serde_json::from_value(fixture.job(&other).expect("a Job")).expect("a Job");
    let watched = serde_json::from_value(serde_json::to_value(job).expect("JSON")).expect("an object");
    fixture.context.children.observe(&ApiResource::erase::<Job>(&()), &watched, true);

    fixture.apply(spec("localhost/orders:1"), 3);
    assert!(fixture.migrate_on(Some(&deployed), None).await.result.is_ready());
    assert!(fixture.job(&other).is_none());
    fixture.context.children.observe(&ApiResource::erase::<Job>(&()), &watched, false);
    drop(fixture.server.take_requests());
    assert!(fixture.migrate_on(Some(&deployed), None).await.result.is_ready());
    assert_eq!(fixture.server.take_requests(), [], "a settled migration costs no request");
}

#[tokio::test]
async fn a_schema_older_than_before_is_migrated_once_more() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let (first, second) = (fixture.job_name(), format!("{}-2", fixture.job_name()));
    fixture.end(&first, "Complete", 60);
    let mut object = fixture.server.get(OBJECT).expect("the object");
    object["status"] = json!({
        "observedGeneration": 1, "database": { "name": "orders", "secretName": "orders-database", "schemaVersion": 3 },
    });
    fixture.server.put(OBJECT, object);
    let deployed = fixture.manifests().deployment;

    let migration = fixture.migrate_on(Some(&deployed), Some(1)).await;
    assert!(is_migrating(&migration.result));
    assert_eq!(migration.schema_version, Some(3), "it is not forgotten");
    assert!(fixture.job(&second).is_some());
    assert!(is_migrating(&fixture.migrate_on(Some(&deployed), Some(1)).await.result), "it runs");
    // In the future, so that it is certainly later than the schema was read.
    fixture.end(&second, "Complete", -60);
    assert!(fixture.migrate_on(Some(&deployed), Some(1)).await.result.is_ready(), "it has run since");
    assert!(fixture.job(&first).is_none());
}

#[tokio::test]
async fn the_migration_of_an_earlier_object_is_stopped_first() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    fixture.migrate().await;
    let name = fixture.job_name();
    let mut earlier = fixture.job(&name).expect("the Job");
    earlier["metadata"]["ownerReferences"][0]["uid"] = "an-earlier-uid".into();
    fixture.server.put(&format!("{JOBS}/{name}"), earlier);
    assert!(is_migrating(&fixture.migrate().await));
    assert!(fixture.job(&name).is_none() && fixture.job(&format!("{name}-2")).is_none());
    fixture.migrate().await;
    assert!(fixture.job(&name).is_some());
}

#[tokio::test]
async fn a_job_of_something_else_is_a_conflict() {
    let fixture = Fixture::new(spec("localhost/orders:1"));
    let name = fixture.job_name();
    let owner = json!({ "apiVersion": "batch/v1", "kind": "CronJob", "name": "x", "uid": "x", "controller": true });
    let foreign = json!({ "metadata": { "name": name, "ownerReferences": [owner] } });
    fixture.server.put(&format!("{JOBS}/{name}"), foreign);
    let result = fixture.migrate().await;
    assert!(matches!(&result, ConditionResult::Stalled("Conflict", text) if text.contains(&name)), "{result:?}");
}
