//! Installs that cannot succeed.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use test_support::cluster::{image, is, message};
use tokio::time::Instant;

use crate::release::Release;

/// They fail within a minute, and the object names the cause.
pub async fn an_impossible_install_fails_and_reports_why(_: Arc<Release>) {
    let on = Release::prepare("-failing").await;
    let missing = image("nothing");
    // This program has no `migrate` command.
    let unsuitable = image("e2e");
    for (image, reason, words) in
        [(missing.as_str(), "ImagePull", missing.as_str()), (unsuitable.as_str(), "MigrationFailed", "migrate")]
    {
        let begun = Instant::now();
        let error = on.install(&[&format!("services.users.image={}", json!(image))]).await.expect_err("a failure");
        let took = begun.elapsed();
        println!("helm install of {image}: {:.1} s: {}", took.as_secs_f64(), error.trim());
        assert!(took < Duration::from_mins(1), "it took {took:?} to fail");
        let object = on.get("users").await;
        assert!(is(&object, "Stalled", "True", reason), "{:#?}", object.status);
        println!("users: {}", message(&object, "Ready"));
        assert!(message(&object, "Ready").contains(words), "{}", message(&object, "Ready"));
        on.uninstall().await;
    }
    // Without an operator there is no object with a status. Helm names the hook that needs the missing image.
    let begun = Instant::now();
    let error = on.install(&[r#"image.tag="no-such-tag""#]).await.expect_err("a failure");
    println!("helm install of images that do not exist: {:.1} s: {}", begun.elapsed().as_secs_f64(), error.trim());
    assert!(begun.elapsed() < Duration::from_mins(1), "it fails within a minute");
    assert!(error.contains("hedgerow-crd"), "{error}");
    on.uninstall().await;
    on.remove().await;
}
