//! Tokens of sessions that have ended.

use super::*;

const ENDED: [&str; 2] = ["01890f5e-7e44-7c5c-8a43-5d9a4e0f6f51", "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f52"];
const RUNNING: &str = "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f53";

/// Lists one session, then another one, and fails from then on.
async fn list() -> Stub {
    Stub::responding(async |request| {
        let page = match request.uri().query() {
            None => json!({ "sessions": [ENDED[0]], "cursor": "1" }),
            Some("after=1") => json!({ "sessions": [ENDED[1]], "cursor": "2" }),
            _ => json!("away"),
        };
        Response::new(full_body(page.to_string()))
    })
    .await
}

#[tokio::test]
async fn tokens_of_ended_sessions_are_refused_while_the_list_is_away() {
    let (issuer, stub, list) = (Issuer::start().await, mirror().await, list().await);
    let url = format!("--auth-revoked-url=http://{}/auth/revoked", list.address);
    let gateway = issuer.gateway(&[&url], &json!({ "mode": "optional" }), &stub);
    gateway.metric_becomes("gateway_revocation_failures_total", 1).await;
    assert_eq!(gateway.metric("gateway_revoked_sessions"), 2);
    for session in ENDED {
        let response = gateway.send_with(Method::GET, "/test", &issuer.token(&json!({ "sid": session }))).await;
        assert_eq!(response.problem(), (401, "invalid-token".to_owned()));
        assert!(response.text().contains(r#""reason":"revoked""#), "{}", response.text());
        assert_eq!(response.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    }
    for session in [json!(RUNNING), json!(null), json!("not-a-uuid")] {
        let response = gateway.send_with(Method::GET, "/test", &issuer.token(&json!({ "sid": session }))).await;
        assert_eq!(response.status, 200, "{session}");
    }
}

#[tokio::test]
async fn a_list_that_repeats_itself_is_not_read_without_a_pause() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let reads = Arc::<AtomicUsize>::default();
    let count = reads.clone();
    let list = Stub::responding(move |_| {
        let cursor = count.fetch_add(1, Ordering::SeqCst).to_string();
        async move { Response::new(full_body(json!({ "sessions": ENDED, "cursor": cursor }).to_string())) }
    })
    .await;
    let url = format!("--auth-revoked-url=http://{}/auth/revoked", list.address);
    let gateway = issuer.gateway(&[&url], &json!({}), &stub);
    gateway.metric_becomes("gateway_revoked_sessions", 2).await;
    eventually("it asks for more at once", TIMEOUT, async || (reads.load(Ordering::SeqCst) == 2).then_some(())).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(reads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_list_is_read_with_the_token_in_the_file() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("users");
    std::fs::write(&file, "first\n").expect("written");
    let seen = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let log = seen.clone();
    let list = Stub::responding(move |request| {
        let credentials = request.headers().get(header::AUTHORIZATION).map(|value| value.to_str().expect("text"));
        log.lock().expect("a lock").push(credentials.unwrap_or_default().to_owned());
        async move { Response::new(full_body(json!({ "sessions": [], "cursor": "" }).to_string())) }
    })
    .await;
    let url = format!("--auth-revoked-url=http://{}/auth/revoked", list.address);
    let token_file = format!("--auth-revoked-token-file={}", file.display());
    let _gateway = issuer.gateway(&[&url, &token_file], &json!({}), &stub);
    for token in ["first", "second"] {
        std::fs::write(&file, token).expect("written");
        let expected = format!("Bearer {token}");
        eventually("the token is sent", TIMEOUT, async || {
            (seen.lock().expect("a lock").last() == Some(&expected)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_token_that_is_remembered_is_refused_once_its_session_ends() {
    let (issuer, stub) = (Issuer::start().await, mirror().await);
    let has_ended = Arc::<std::sync::atomic::AtomicBool>::default();
    let ended = has_ended.clone();
    let list = Stub::responding(move |_| {
        let sessions = if ended.load(Ordering::SeqCst) { &ENDED[..] } else { &[] };
        async move { Response::new(full_body(json!({ "sessions": sessions, "cursor": "" }).to_string())) }
    })
    .await;
    let url = format!("--auth-revoked-url=http://{}/auth/revoked", list.address);
    let gateway = issuer.gateway(&[&url], &json!({}), &stub);
    let token = issuer.token(&json!({ "sid": ENDED[0] }));
    assert_eq!(gateway.send_with(Method::GET, "/test", &token).await.status, 200);
    has_ended.store(true, Ordering::SeqCst);
    eventually("the session has ended", TIMEOUT, async || {
        (gateway.send_with(Method::GET, "/test", &token).await.status == 401).then_some(())
    })
    .await;
}
