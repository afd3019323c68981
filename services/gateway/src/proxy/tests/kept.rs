//! Answers of 503 that are kept while another endpoint is asked.

use test_support::raw::Raw;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{
    retries::{both, resetting},
    stub::read_head,
    *,
};

/// Answers 503 with this body, the end of its head first.
async fn busy(rest: &'static str) -> Stub {
    Stub::raw(move |mut stream, _| async move {
        if read_head(&mut stream).await.is_some() {
            let answer = format!("HTTP/1.1 503 Service Unavailable\r\n{rest}");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

/// Asks until the answer of `busy`, which was asked first, is given after two others that had none: who is asked is a
/// matter of chance. Returns the lines that were logged.
async fn kept_answers(busy: &Stub) -> Vec<Value> {
    let resets = Arc::default();
    let other = resetting(&resets).await;
    let mut lines = Vec::new();
    for _ in 0..100 {
        let site = Site::of(&["--total-timeout=500ms"], both(busy.address, other.address));
        let before = resets.load(Ordering::SeqCst);
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send("GET /test HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("sent");
        raw.closed().await.expect("it ends in time");
        let line = site.log(1).await.remove(0);
        let is_kept = line["status"] == 503 && resets.load(Ordering::SeqCst) == before + 2;
        lines.push(line);
        if is_kept {
            return lines;
        }
    }
    panic!("it is never asked first");
}

#[tokio::test]
async fn an_answer_of_503_that_is_given_after_all_is_noted_as_that_of_its_endpoint() {
    let busy = busy("content-length: 4\r\n\r\nbusy").await;
    for line in kept_answers(&busy).await.iter().filter(|line| line["status"] == 503) {
        assert_eq!((&line["upstream"], &line["bytes"]), (&busy.address.to_string().into(), &4.into()), "{line}");
    }
}

#[tokio::test]
async fn an_answer_of_503_that_was_kept_has_to_end_in_time() {
    let busy = busy("transfer-encoding: chunked\r\n\r\n4\r\nbusy\r\n").await;
    let line = kept_answers(&busy).await.pop().expect("a line");
    assert_eq!((&line["status"], &line["complete"]), (&503.into(), &false.into()), "{line}");
}

/// Nor does it matter that its endpoint did not get all of the request: the rest went to another one.
#[tokio::test]
async fn an_answer_of_503_that_was_kept_is_given_though_there_is_no_endpoint_any_more() {
    let (got, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let silent = Stub::raw({
        let (got, go) = (got.clone(), go.clone());
        move |mut stream, _| {
            let (got, go) = (got.clone(), go.clone());
            async move {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"hello world") {
                    if stream.read_buf(&mut bytes).await.is_ok_and(|length| length == 0) {
                        return;
                    }
                }
                got.notify_one();
                go.notified().await;
            }
        }
    })
    .await;
    let busy = busy("content-length: 4\r\n\r\nbusy").await;
    let site = Site::with(&[], &[&busy]);
    for _ in 0..100 {
        let (was_busy, was_silent) = (busy.connections(), silent.connections());
        site.told(both(busy.address, silent.address)).await;
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send("PUT /test HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello").await.expect("sent");
        let what = "it is with the silent one";
        eventually(what, PATIENCE, async || (silent.connections() > was_silent).then_some(())).await;
        raw.send(" world").await.expect("sent");
        got.notified().await;
        let was_first = busy.connections() > was_busy;
        site.told(vec![service("test", &["/test"], &[])]).await;
        go.notify_one();
        let answer = raw.answer().await.expect("an answer");
        assert_eq!(answer.status, 503);
        if was_first {
            assert_eq!(answer.body, "busy");
            return;
        }
    }
    panic!("it is never asked first");
}
