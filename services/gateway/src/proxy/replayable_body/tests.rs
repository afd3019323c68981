use std::convert::Infallible;

use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};

use super::{super::unread::Held, *};

/// A body whose chunks arrive like this, and which is kept.
fn arriving(chunks: impl Stream<Item = Bytes> + Unpin) -> ReplayableBody<impl Body<Data = Bytes> + Unpin> {
    let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    ReplayableBody::new(StreamBody::new(frames), u64::MAX, true)
}

fn replayable(chunks: impl IntoIterator<Item = String>) -> ReplayableBody<impl Body<Data = Bytes> + Unpin> {
    let chunks: Vec<_> = chunks.into_iter().map(Bytes::from).collect();
    arriving(stream::iter(chunks))
}

async fn next(body: &mut (impl Body<Data = Bytes, Error = RequestBodyError> + Unpin)) -> Bytes {
    body.frame().await.expect("a frame").expect("no error").into_data().expect("data")
}

async fn rest(body: impl Body<Data = Bytes, Error = RequestBodyError>) -> Bytes {
    body.collect().await.expect("a complete body").to_bytes()
}

/// The sizes of the pieces that an attempt gets.
async fn sizes(mut attempt: impl Body<Data = Bytes, Error = RequestBodyError> + Unpin) -> Vec<usize> {
    let mut sizes = Vec::new();
    while let Some(frame) = attempt.frame().await {
        sizes.push(frame.expect("no error").into_data().expect("data").len());
    }
    sizes
}

/// An endpoint may respond while it still reads the request.
#[tokio::test]
async fn a_replayed_body_is_complete_despite_an_early_response() {
    // How much of the body the first attempt has read, and the second one when the response arrives.
    for (first, second) in [(4, 0), (4, 1), (2, 0), (2, 1), (2, 2), (2, 3), (0, 1), (0, 4)] {
        let chunks = ["a", "b", "c", "d"].map(|letter| letter.repeat(SMALL_CHUNK));
        let body = replayable(chunks.clone());
        let mut attempt = body.attempt();
        for _ in 0..first {
            next(&mut attempt).await;
        }
        let mut attempt = body.attempt();
        let mut sent = Vec::new();
        for _ in 0..second {
            sent.extend(next(&mut attempt).await);
        }
        body.release();
        assert!(!body.is_replayable());
        sent.extend(rest(attempt).await);
        assert!(sent == chunks.concat().as_bytes(), "{first} {second}");
    }
}

/// Each would take memory of its own, and be written by itself.
#[tokio::test]
async fn small_chunks_are_joined() {
    const COUNT: usize = 60_000;
    let body = replayable(vec!["x".to_owned(); COUNT]);
    let first = sizes(body.attempt()).await;
    assert_eq!((first[0], first.iter().sum()), (1, COUNT));
    assert!(first.len() <= COUNT / MAX_JOINED + 2, "{}", first.len());
    assert!(body.is_replayable());
    assert_eq!(sizes(body.attempt()).await, [COUNT]);
    assert_eq!(sizes(body.attempt()).await, [COUNT]);
}

/// As hyper reads the next chunk only after it was asked for it.
#[tokio::test]
async fn small_chunks_that_arrive_one_by_one_are_joined() {
    const COUNT: usize = 10_000;
    let (mut polls, mut left) = (0, COUNT);
    let chunks = stream::poll_fn(move |cx| {
        polls += 1;
        if polls % 2 == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        left = left.saturating_sub(1);
        Poll::Ready((left > 0).then_some(Bytes::from_static(b"x")))
    });
    let body = arriving(chunks);
    let count = sizes(body.attempt()).await.len();
    assert!(count < COUNT / 1000, "{count}");
}

/// A lone small chunk, such as a message of a stream, is not held back.
#[tokio::test]
async fn a_small_chunk_does_not_wait_for_more() {
    let body = arriving(stream::iter(["a", "b"].map(Bytes::from)).chain(stream::pending()));
    let mut attempt = body.attempt();
    assert_eq!([next(&mut attempt).await, next(&mut attempt).await], ["a", "b"]);
}

#[tokio::test]
async fn a_client_may_have_only_a_share_of_what_is_kept() {
    const COUNT: usize = 200;
    let (client, other, all) = (Arc::<Held>::default(), Arc::default(), Arc::default());
    let read = async |client: &Arc<Held>| {
        let body = replayable(vec!["x".repeat(30_000); 2]);
        assert!(body.count_unread(|length| Unread::new(client.clone(), Arc::clone(&all), length)));
        assert_eq!(rest(body.attempt()).await.len(), 60_000);
        body
    };
    let mut bodies = Vec::new();
    for _ in 0..COUNT {
        bodies.push(read(&client).await);
    }
    let kept = bodies.iter().filter(|body| body.is_replayable()).count();
    assert_eq!(kept, 8 * 1024 * 1024 / 60_000);
    assert!(read(&other).await.is_replayable());
    bodies[0].release();
    assert!(read(&client).await.is_replayable());
    drop(bodies);
    assert!(read(&client).await.is_replayable());
}
