//! Installs that cannot succeed.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use test_support::cluster::{image, is, message};
use tokio::time::Instant;

use crate::release::Release;

/// Within a minute, with the cause on the object.
pub async fn an_install_that_cannot_succeed_fails_and_says_why(_: Arc<Release>) {
    let on = Release::prepare("-failing").await;
    let missing = image("nothing");
    // A program that knows no `migrate`.
    let unfit = image("e2e");
    for (image, reason, words) in
        [(missing.as_str(), "ImagePull", missing.as_str()), (unfit.as_str(), "MigrationFailed", "migrate")]
    {
        let begun = Instant::now();
        let said = on.install(&[&format!("services.users.image={}", json!(image))]).await.expect_err("a failure");
        let took = begun.elapsed();
        println!("helm install of {image}: {:.1} s: {}", took.as_secs_f64(), said.trim());
        assert!(took < Duration::from_mins(1), "it fails within a minute: {took:?}");
        let object = on.get("users").await;
        assert!(is(&object, "Stalled", "True", reason), "{:#?}", object.status);
        println!("users: {}", message(&object, "Ready"));
        assert!(message(&object, "Ready").contains(words), "{}", message(&object, "Ready"));
        on.uninstall().await;
    }
    // Without an operator there is no object to say it: the first thing that needs its image does.
    let begun = Instant::now();
    let said = on.install(&[r#"image.tag="no-such-tag""#]).await.expect_err("a failure");
    println!("helm install of images that do not exist: {:.1} s: {}", begun.elapsed().as_secs_f64(), said.trim());
    assert!(begun.elapsed() < Duration::from_mins(1), "it fails within a minute");
    assert!(said.contains("hedgerow-crd"), "{said}");
    on.uninstall().await;
    on.remove().await;
}
