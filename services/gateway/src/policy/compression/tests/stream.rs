//! The compressed body as a stream.

use std::{
    io::Write as _,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use flate2::write::GzDecoder;
use http::Response;
use http_body::{Body as _, Frame};
use proptest::prelude::*;

use super::{GZIP, JSON, apply, compression, data, decompress, headers, long, read, streamed};

#[test]
fn a_stream_is_not_delayed() {
    let (_, mut body) = apply(
        &[GZIP],
        200,
        &[JSON],
        streamed([data("{\"a\":1}\n"), None, None, data("{\"b\":2}\n"), data("{\"c\":3}\n"), None, None]),
    );
    let mut decoder = GzDecoder::new(Vec::new());
    for expected in ["{\"a\":1}\n", "{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n"] {
        let (frames, _) = read(&mut body);
        assert!(!body.is_end_stream());
        decoder.write_all(&frames.concat()).expect("gzip");
        decoder.flush().expect("gzip");
        assert_eq!(String::from_utf8_lossy(decoder.get_ref()), expected);
    }
    let (frames, _) = read(&mut body);
    decoder.write_all(&frames.concat()).expect("gzip");
    decoder.finish().expect("a complete stream");
}

#[test]
fn highly_compressible_content_does_not_block_the_thread() {
    let read = std::cell::Cell::new(0);
    let zeros = std::iter::repeat_with(|| {
        read.set(read.get() + 1);
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[0; 16 * 1024])))
    });
    let compression = compression();
    let mut parts = Response::new(()).into_parts().0;
    parts.headers = headers(&[JSON]);
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(zeros));
    let mut body = compression.apply(false, &compression.accepted(&headers(&[GZIP])), &mut parts, body);
    for pieces in [4, 8, 12] {
        let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))) && read.get() <= pieces, "{} frames were read", read.get());
    }
}

#[test]
fn trailers_follow_the_compressed_content() {
    let trailers = headers(&[("checked", "yes")]);
    let pieces = [data(long()), Some(Frame::trailers(trailers.clone()))];
    let (_, mut body) = apply(&[GZIP], 200, &[JSON], streamed(pieces));
    let (frames, found) = read(&mut body);
    assert_eq!(decompress(&frames), long().as_bytes());
    assert_eq!(found, Some(trailers));
    assert!(body.is_end_stream());
}

#[test]
fn a_truncated_response_is_not_a_complete_gzip_stream() {
    let body = http_body_util::StreamBody::new(futures_util::stream::iter([
        Ok(Frame::data(Bytes::from(long()))),
        Err(std::io::Error::other("gone")),
    ]));
    let compression = compression();
    let mut parts = Response::new(()).into_parts().0;
    parts.headers = headers(&[JSON]);
    let mut body = compression.apply(false, &compression.accepted(&headers(&[GZIP])), &mut parts, body);
    let mut output = Vec::new();
    loop {
        match Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => output.push(frame.into_data().expect("data")),
            Poll::Ready(Some(Err(error))) => break assert_eq!(error.to_string(), "gone"),
            other => panic!("{other:?}"),
        }
    }
    let after = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(after, Poll::Ready(None)) && body.is_end_stream(), "nothing comes after an error");
    let mut decoder = GzDecoder::new(Vec::new());
    let read = decoder.write_all(&output.concat()).and_then(|()| decoder.try_finish());
    assert!(output.is_empty() || read.is_err());
}

proptest! {
    #[test]
    fn decompressed_content_equals_the_original(
        pieces in proptest::collection::vec(
            proptest::option::weighted(0.8, prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..3000),
                (any::<u8>(), 0_usize..200_000).prop_map(|(byte, count)| vec![byte; count]),
            ]),
            0..12,
        ),
    ) {
        let expected = pieces.iter().flatten().flatten().copied().collect::<Vec<u8>>();
        let pauses = pieces.len();
        let frames = pieces.into_iter().map(|piece| piece.and_then(data));
        let (_, mut body) = apply(&[GZIP], 200, &[JSON], streamed(frames));
        let mut output = Vec::new();
        for _ in 0..=pauses {
            let (frames, _) = read(&mut body);
            prop_assert!(frames.iter().all(|frame| !frame.is_empty()), "a frame is empty");
            output.extend(frames);
        }
        prop_assert!(body.is_end_stream());
        prop_assert_eq!(decompress(&output), expected);
    }
}
