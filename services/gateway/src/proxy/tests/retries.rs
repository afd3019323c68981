//! What is sent again, and to whom; and who is left out for a while.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use test_support::{port::Port, raw::Raw};
use tokio::{io::AsyncReadExt, sync::Notify};

use super::{
    stub::{read_head, whole, write_answer},
    *,
};

const RETRIES: &str = r#"gateway_upstream_retries_total{service="test"}"#;
const EJECTIONS: &str = r#"gateway_upstream_ejections_total{service="test"}"#;

/// Takes requests whole, and closes without an answer.
pub(super) async fn resetting(count: &Arc<AtomicUsize>) -> Stub {
    let count = count.clone();
    Stub::raw(move |mut stream, _| {
        let count = count.clone();
        async move {
            if read_head(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await
}

/// The most often that an endpoint that never works can have been left out since: for a second, then for two, then four.
fn most_ejections(since: Instant) -> usize {
    (since.elapsed().as_secs() + 1).ilog2() as usize + 1
}

pub(super) fn both(first: SocketAddr, second: SocketAddr) -> Vec<Service> {
    vec![service("test", &["/test"], &[first, second])]
}

#[tokio::test]
async fn where_nobody_listens_any_request_goes_to_another() {
    let stub = Stub::answering(async |request| {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        Response::new(whole(body))
    })
    .await;
    let (nobody, begun) = (Port::free(), Instant::now());
    let site = Site::of(&[], both(nobody.address, stub.address));
    for number in 0..20 {
        let body = format!("body {number}");
        assert_eq!(site.post("/test", &body).await.text(), body);
    }
    // Each failure is enough for it to be left out.
    let failures = site.metric(RETRIES);
    assert!((1..=most_ejections(begun)).contains(&failures), "{failures}");
    assert_eq!(site.metric(EJECTIONS), failures);
    assert_eq!(stub.requests(), 20);
}

#[tokio::test]
async fn what_may_be_repeated_goes_to_another_when_no_answer_comes() {
    let resets = Arc::default();
    let (bad, good) = (
        resetting(&resets).await,
        Stub::answering(async |request| {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            Response::new(whole(body))
        })
        .await,
    );
    let site = Site::of(&[], both(bad.address, good.address));
    let large = "x".repeat(60_000);
    let mut sent = 0;
    while resets.load(Ordering::SeqCst) < 3 {
        for request in [
            request(Method::GET, "/test", ""),
            request(Method::HEAD, "/test", ""),
            request(Method::DELETE, "/test", ""),
            request(Method::OPTIONS, "/test", ""),
            request(Method::PUT, "/test", &large),
            keyed("/test", &large),
        ] {
            let expected = if request.method() == Method::HEAD {
                0
            } else {
                http_body::Body::size_hint(request.body()).exact().expect("a size")
            };
            let answer = site.send(request).await;
            assert_eq!((answer.status.as_u16(), answer.body.len() as u64), (200, expected));
            sent += 1;
        }
        assert!(sent < 1000, "the bad one is never asked");
    }
    assert_eq!(good.requests(), sent);
    assert_eq!(site.metric(RETRIES), resets.load(Ordering::SeqCst));
}

#[tokio::test]
async fn what_may_have_had_an_effect_is_not_repeated() {
    let resets = Arc::default();
    let (bad, other) = (resetting(&resets).await, resetting(&resets).await);
    let site = Site::of(&[], both(bad.address, other.address));
    for request in
        [request(Method::POST, "/test", "x"), request(Method::PATCH, "/test", "x"), request(Method::POST, "/test", "")]
    {
        let before = resets.load(Ordering::SeqCst);
        let answer = site.send(request).await;
        assert_eq!(answer.problem(), (502, "outcome-unknown".to_owned()));
        assert_eq!(resets.load(Ordering::SeqCst), before + 1);
    }
    assert_eq!(site.metric(RETRIES), 0);
    // While one that may have had none says so: of a GET, 502 says all.
    assert_eq!(site.get("/test").await.problem(), (502, "about:blank".to_owned()));
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_kept_is_not_repeated() {
    let resets = Arc::<AtomicUsize>::default();
    let reading = |resets: Arc<AtomicUsize>| {
        Stub::raw(move |mut stream, _| {
            let resets = resets.clone();
            async move {
                if read_head(&mut stream).await.is_some() {
                    resets.fetch_add(1, Ordering::SeqCst);
                    // So that all of it is on its way.
                    let mut left = 66_000;
                    let mut buffer = vec![0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        left -= length.min(left);
                        if left == 0 {
                            return;
                        }
                    }
                }
            }
        })
    };
    let (bad, other) = (reading(resets.clone()).await, reading(resets.clone()).await);
    let site = Site::of(&[], both(bad.address, other.address));
    assert_eq!(site.send(keyed("/test", &"x".repeat(70_000))).await.problem().0, 502);
    assert_eq!(resets.load(Ordering::SeqCst), 1);
}

/// The rest of a body is sent with what was kept of it.
#[tokio::test]
async fn a_body_of_which_only_a_part_has_come_is_repeated_whole() {
    let go = Arc::new(Notify::new());
    let bad = Stub::raw({
        let go = go.clone();
        move |mut stream, _| {
            let go = go.clone();
            async move {
                read_head(&mut stream).await;
                go.notified().await;
            }
        }
    })
    .await;
    let good = Stub::answering(async |request| {
        Response::new(whole(request.into_body().collect().await.expect("a body").to_bytes()))
    })
    .await;
    let site = Site::of(&[], vec![service("test", &["/test"], &[bad.address])]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("PUT /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await.expect("sent");
    eventually("it is with the bad one", PATIENCE, async || (bad.connections() == 1).then_some(())).await;
    site.told(both(bad.address, good.address)).await;
    go.notify_one();
    eventually("it is with the good one", PATIENCE, async || (good.connections() == 1).then_some(())).await;
    raw.send("6\r\n world\r\n0\r\n\r\n").await.expect("sent");
    let answer = raw.answer().await.expect("an answer");
    assert_eq!((answer.status, &*answer.body), (200, "hello world"), "{}", answer.head);
}

#[tokio::test]
async fn an_answer_of_502_or_503_counts_as_none_where_another_endpoint_works() {
    for status in [502, 503] {
        let bad =
            Stub::answering(move |_| async move { Response::builder().status(status).body(whole("bad")).expect("it") })
                .await;
        let good = Stub::saying("good").await;
        let site = Site::of(&[], both(bad.address, good.address));
        // As many as there are retries to begin with.
        for _ in 0..10 {
            assert_eq!(site.get("/test").await.text(), "good");
            assert_eq!(site.send(keyed("/test", "x")).await.text(), "good");
        }
        let retries = bad.requests();
        assert!(retries > 0, "the bad one was never asked");
        assert_eq!(site.metric(RETRIES), retries);
        let post = async || (site.post("/test", "x").await.text() == "bad").then_some(());
        eventually("one that may not be repeated is answered by the bad one", PATIENCE, post).await;
        assert_eq!(site.metric(RETRIES), retries);
        // Where there is no other, the answer is the client's.
        site.told(vec![service("test", &["/test"], &[bad.address])]).await;
        assert_eq!(site.get("/test").await.text(), "bad");
    }
}

/// 503 says nothing of an endpoint that others would not say too: a database that is away, too much to do.
#[tokio::test]
async fn an_endpoint_that_says_503_is_not_left_out() {
    let busy =
        Stub::answering(async |_| Response::builder().status(503).body(whole("busy")).expect("a response")).await;
    let good = Stub::saying("good").await;
    let site = Site::of(&[], both(busy.address, good.address));
    for _ in 0..60 {
        site.post("/test", "x").await;
    }
    assert!(busy.requests() > 10, "{}", busy.requests());
    assert_eq!(site.metric(EJECTIONS), 0);
}

#[tokio::test]
async fn retries_are_limited_by_a_budget() {
    let resets = Arc::default();
    let (bad, other) = (resetting(&resets).await, resetting(&resets).await);
    let begun = Instant::now();
    let site = Site::of(&[], both(bad.address, other.address));
    for _ in 0..200 {
        assert_eq!(site.get("/test").await.status, 502);
    }
    let retries = resets.load(Ordering::SeqCst) - 200;
    // A fifth of the requests, what a service begins with, and two a second.
    let most = 200 / 5 + 20 + usize::try_from(begun.elapsed().as_millis() / 500).expect("few");
    assert!((40..=most).contains(&retries), "{retries} of {most}");
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let (bad, good) = (Port::free(), Stub::saying("good").await);
    let site = Site::of(&[], both(bad.address, good.address));
    let begun = Instant::now();
    eventually("it is left out", PATIENCE, async || {
        assert_eq!(site.post("/test", "x").await.text(), "good");
        (site.metric(EJECTIONS) > 0).then_some(())
    })
    .await;
    for _ in 0..10 {
        assert_eq!(site.post("/test", "x").await.text(), "good");
    }
    let ejections = site.metric(EJECTIONS);
    assert!(ejections <= most_ejections(begun), "{ejections}");
    let back = Stub::at(bad, async |_| Response::new(whole("back"))).await;
    eventually("it is back", PATIENCE, async || {
        let answer = site.post("/test", "x").await;
        assert_eq!(answer.status, 200);
        (answer.text() == "back").then_some(())
    })
    .await;
    // With its share.
    for _ in 0..100 {
        site.get("/test").await;
    }
    assert!(back.requests() > 20, "{}", back.requests());
}

#[tokio::test]
async fn the_last_endpoint_is_never_left_out() {
    let flaky = Stub::raw(async |mut stream, number| {
        if read_head(&mut stream).await.is_some() && number >= 10 {
            write_answer(&mut stream, "well").await;
        }
    })
    .await;
    let site = Site::with(&[], &[&flaky]);
    for number in 0..20 {
        let answer = site.post("/test", "x").await;
        assert_eq!(answer.status.as_u16(), if number < 10 { 502 } else { 200 }, "{number}");
    }
    // Nor both of two: the second one failed when it was the last.
    let dead = Port::free();
    site.told(both(flaky.address, dead.address)).await;
    for _ in 0..20 {
        assert_eq!(site.post("/test", "x").await.status, 200);
    }
    let port = flaky.kill().await;
    for _ in 0..20 {
        assert_eq!(site.post("/test", "x").await.problem(), (503, "about:blank".to_owned()));
    }
    let again = Stub::at(port, async |_| Response::new(whole("again"))).await;
    assert_eq!(site.post("/test", "x").await.text(), "again", "it was not left out");
    drop(again);
}
