//! Connections to endpoints: what is on them belongs to the request that has them, and to no other.

use test_support::raw::Raw;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{
    stub::{read_head, write_answer},
    *,
};

/// Else the next client would get what a service was made to send with an answer to somebody else.
#[tokio::test]
async fn what_follows_an_answer_is_no_answer() {
    for comes_later in [false, true] {
        let (written, more) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let stub = Stub::raw({
            let (written, more) = (written.clone(), more.clone());
            move |mut stream, number| {
                let (written, more) = (written.clone(), more.clone());
                async move {
                    read_head(&mut stream).await;
                    if number > 0 {
                        return write_answer(&mut stream, "its own").await;
                    }
                    let forged = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst";
                    if comes_later {
                        stream.write_all(answer.as_bytes()).await.expect("written");
                        more.notified().await;
                        stream.write_all(forged.as_bytes()).await.expect("written");
                    } else {
                        stream.write_all([answer, forged].concat().as_bytes()).await.expect("written");
                    }
                    written.notify_one();
                    if read_head(&mut stream).await.is_some() {
                        write_answer(&mut stream, "another's").await;
                    }
                }
            }
        })
        .await;
        let site = Site::with(&[], &[&stub]);
        assert_eq!(site.get("/test").await.text(), "first");
        more.notify_one();
        written.notified().await;
        assert_eq!(site.get("/test").await.text(), "its own", "{comes_later}");
        assert_eq!(stub.connections(), 2);
    }
}

/// An endpoint that does not want the rest of a request says so before it has read that, and may close.
#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_the_request_is_the_answer() {
    let stub = Stub::raw(async |mut stream, _| {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 8\r\n\r\ntoo much";
        stream.write_all(answer.as_bytes()).await.expect("written");
        stream.shutdown().await.expect("shut down");
        // What still comes is taken, or the kernel would take the answer back.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    for _ in 0..2 {
        let mut raw = Raw::connect(site.address).await.expect("a connection");
        raw.send("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 500000\r\n\r\nthe beginning").await.expect("sent");
        let answer = raw.answer().await.expect("an answer");
        assert_eq!((answer.status, &*answer.body, answer.closes()), (413, "too much", true), "{}", answer.head);
    }
    assert_eq!(stub.connections(), 2);
}

#[tokio::test]
async fn a_request_and_its_answer_may_be_longer_than_any_buffer() {
    let stub =
        Stub::answering(async |request| Response::new(request.into_body().map_err(io::Error::other).boxed())).await;
    let site = Site::with(&["--body-limit=100000000"], &[&stub]);
    let body: Bytes = (0..4_000_000_u32).map(|number| (number / 1000 % 251) as u8).collect();
    // On one connection, and so on one of the gateway's threads, each of which has connections of its own. By HTTP/1.1 it
    // would be closed, as the answer comes before the request's end.
    let mut client = http_2(site.address).await;
    for _ in 0..2 {
        let request = Request::post("http://shop.example/test").body(Full::new(body.clone())).expect("a request");
        let answer = client.send_request(request).await.expect("an answer");
        assert!(Answer::read(answer).await.expect("all of it").body == body);
    }
    assert_eq!(stub.connections(), 1);
}
