//! A body that is compressed as it passes.

use std::{
    cell::RefCell,
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use http::HeaderMap;
use http_body::Frame;
use pin_project_lite::pin_project;

use super::Slot;

type BoxError = Box<dyn Error + Send + Sync>;

/// Higher levels take more time than what they save is worth on answers made for one client.
const LEVEL: u32 = 2;

/// Most bytes that are read, and about most that are made, before some are given on.
const MAX_READ: usize = 64 * 1024;
const MAX_MADE: usize = 16 * 1024;

/// Compressors that a thread keeps for the next answers: making one costs as much as compressing a short answer.
const KEPT: usize = 4;

pin_project! {
    /// A body, compressed. What has arrived is given on as soon as nothing more has: streams are not held back.
    pub(crate) struct Gzip<B> {
        #[pin]
        body: B,
        // `None` once all of it was compressed.
        encoder: Option<Encoder>,
        trailers: Option<HeaderMap>,
    }
}

/// A compressor on its way through an answer.
struct Encoder {
    compress: Option<Compress>,
    /// Whether there may be bytes in it that were not given on.
    holds: bool,
    _slot: Slot,
}

thread_local! {
    static IDLE: RefCell<Vec<Compress>> = const { RefCell::new(Vec::new()) };
}

impl<B> Gzip<B> {
    pub(super) fn new(body: B, slot: Slot) -> Self {
        let encoder = Encoder { compress: None, holds: false, _slot: slot };
        Self { body, encoder: Some(encoder), trailers: None }
    }
}

impl<B> http_body::Body for Gzip<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let mut made = Vec::new();
        let mut read = 0;
        loop {
            let Some(encoder) = this.encoder else {
                return Poll::Ready(this.trailers.take().map(Frame::trailers).map(Ok));
            };
            let flush = match this.body.as_mut().poll_frame(cx) {
                Poll::Pending if !encoder.holds && made.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    encoder.compress(&[], FlushCompress::Sync, &mut made)?;
                    return Poll::Ready(Some(Ok(Frame::data(made.into()))));
                }
                Poll::Ready(Some(Err(error))) => {
                    *this.encoder = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        read += data.len();
                        let flush = if this.body.is_end_stream() { FlushCompress::Finish } else { FlushCompress::None };
                        encoder.compress(&data, flush, &mut made)?;
                        flush
                    }
                    Err(frame) => {
                        *this.trailers = frame.into_trailers().ok();
                        encoder.compress(&[], FlushCompress::Finish, &mut made)?;
                        FlushCompress::Finish
                    }
                },
                Poll::Ready(None) => {
                    encoder.compress(&[], FlushCompress::Finish, &mut made)?;
                    FlushCompress::Finish
                }
            };
            if matches!(flush, FlushCompress::Finish) {
                *this.encoder = None;
                return Poll::Ready(Some(Ok(Frame::data(made.into()))));
            }
            if read >= MAX_READ && made.is_empty() {
                encoder.compress(&[], FlushCompress::Sync, &mut made)?;
            }
            if made.len() >= MAX_MADE || (read >= MAX_READ && !made.is_empty()) {
                return Poll::Ready(Some(Ok(Frame::data(made.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

impl Encoder {
    /// Compresses all of the input, and appends what comes out of it.
    fn compress(&mut self, input: &[u8], flush: FlushCompress, output: &mut Vec<u8>) -> Result<(), BoxError> {
        let compress = self.compress.get_or_insert_with(|| {
            let kept = IDLE.try_with(|idle| idle.try_borrow_mut().ok()?.pop()).ok().flatten();
            kept.unwrap_or_else(|| Compress::new_gzip(Compression::new(LEVEL), 15))
        });
        let mut rest = input;
        loop {
            output.reserve((rest.len() / 4).clamp(512, MAX_MADE));
            let (before, length) = (compress.total_in(), output.len());
            let status = compress.compress_vec(rest, output, flush)?;
            let taken = usize::try_from(compress.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            // With room left in the output, there is nothing more to come.
            if status == Status::StreamEnd || (rest.is_empty() && output.len() < output.capacity()) {
                break;
            }
            if taken == 0 && output.len() == length {
                return Err("the compressor goes no further".into());
            }
        }
        self.holds = matches!(flush, FlushCompress::None);
        Ok(())
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let Some(mut compress) = self.compress.take() else { return };
        compress.reset();
        // A thread that ends keeps nothing.
        let _ = IDLE.try_with(|idle| {
            if let Ok(mut idle) = idle.try_borrow_mut()
                && idle.len() < KEPT
            {
                idle.push(compress);
            }
        });
    }
}
