//! A gateway that stops while it is busy, and clients that are slow.

use runtime::Phase;
use test_support::raw::{self, Raw};
use tokio::{sync::Notify, task::JoinSet};

use super::{stub::whole, *};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_fails_no_request() {
    let stub = Stub::answering(async |request| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Response::new(whole(request.into_body().collect().await.expect("a body").to_bytes()))
    })
    .await;
    let site = Site::with(&["--drain-delay=300ms"], &[&stub]);
    let (address, mut clients) = (site.address, JoinSet::new());
    for number in 0..16 {
        let life = site.life.clone();
        clients.spawn(async move {
            let mut count = 0;
            // A connection that says it closes is followed by another one, until there is nobody any more.
            while let Ok(mut raw) = Raw::connect(address).await {
                loop {
                    let body = format!("{number} {count}");
                    let head = format!("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
                    let answered = match raw.send(head + &body).await {
                        Ok(()) => raw.answer().await,
                        Err(error) => Err(error),
                    };
                    let answer = match answered {
                        Ok(answer) => answer,
                        // Accepted by the kernel after the gateway's last look.
                        Err(_) if life.phase() == Phase::Stopping => return count,
                        Err(error) => panic!("no answer: {error}"),
                    };
                    assert_eq!((answer.status, &answer.body), (200, &body));
                    count += 1;
                    if answer.closes() {
                        break;
                    }
                }
            }
            count
        });
    }
    eventually("they are busy", PATIENCE, async || (stub.requests() > 200).then_some(())).await;
    let stop = tokio::spawn(site.running.stop());
    tokio::time::timeout(PATIENCE, stop).await.expect("it stops").expect("no panic");
    let counts = clients.join_all().await;
    assert_eq!(counts.iter().sum::<i32>(), i32::try_from(stub.requests()).expect("a count"));
}

#[tokio::test]
async fn a_stop_waits_for_what_is_in_flight() {
    let go = Arc::new(Notify::new());
    let stub = Stub::answering({
        let go = go.clone();
        move |_| {
            let go = go.clone();
            async move {
                go.notified().await;
                Response::new(whole("waited"))
            }
        }
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send(raw::get("/test")).await.expect("sent");
    eventually("it is in flight", PATIENCE, async || (stub.requests() == 1).then_some(())).await;
    let stop = tokio::spawn(site.running.stop());
    assert!(tokio::time::timeout(MOMENT * 5, raw.closed()).await.is_err() && !stop.is_finished());
    go.notify_one();
    let answer = raw.answer().await.expect("an answer");
    assert!(answer.body == "waited" && answer.closes(), "{}", answer.head);
    stop.await.expect("it stops");
}

/// As the services do: the server is the same.
#[tokio::test]
async fn clients_that_send_their_head_slowly_hold_nobody_up() {
    let stub = Stub::saying("hello").await;
    let site = Site::with(&["--max-in-flight=3"], &[&stub]);
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send("GET /test HTTP/1.1\r\nhost: a\r\nx: ").await.expect("sent");
        slow.push(raw);
    }
    for _ in 0..10 {
        assert_eq!(site.get("/test").await.text(), "hello");
    }
    for raw in &mut slow {
        raw.send("y\r\n\r\n").await.expect("sent");
        assert_eq!(raw.answer().await.expect("an answer").body, "hello");
    }
}
