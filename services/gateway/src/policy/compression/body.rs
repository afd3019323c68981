//! The body of a response: passed through, or compressed while it is streamed.

use std::{
    cell::RefCell,
    error::Error,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::OwnedSemaphorePermit;

use crate::policy::header_filter::strip_trailers;

type BoxError = Box<dyn Error + Send + Sync>;

/// Higher levels cost more time than they save on responses that are made for a single client.
const LEVEL: u32 = 2;

/// How many bytes are read at most, and produced at most (approximately), before a frame is returned.
const MAX_READ: usize = 64 * 1024;
const MAX_OUTPUT: usize = 16 * 1024;

/// Compressors that a thread keeps for later responses. Creating one costs as much as compressing a short response.
const MAX_IDLE: usize = 4;

pin_project! {
    /// The body of a response.
    #[project = Projected]
    pub(crate) enum Body<B> {
        /// Passed through.
        Plain { #[pin] body: B },
        /// Compressed with gzip.
        Gzip { #[pin] body: Gzip<B> },
    }
}

impl<B> http_body::Body for Body<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut frame = ready!(match self.project() {
            Projected::Plain { body } => body.poll_frame(cx).map_err(Into::into),
            Projected::Gzip { body } => body.poll_frame(cx),
        });
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            strip_trailers(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain { body } => body.is_end_stream(),
            Self::Gzip { body } => body.encoder.is_none() && body.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain { body } => body.size_hint(),
            Self::Gzip { .. } => SizeHint::default(),
        }
    }
}

pin_project! {
    /// A compressed body. It is flushed whenever the inner body is pending, so that streams are not delayed.
    pub(crate) struct Gzip<B> {
        #[pin]
        body: B,
        // `None` once the body is compressed completely.
        encoder: Option<Encoder>,
        trailers: Option<HeaderMap>,
    }
}

/// The compressor of one response.
struct Encoder {
    compress: Option<Compress>,
    /// Whether the compressor may hold bytes that were not flushed.
    has_pending: bool,
    _permit: OwnedSemaphorePermit,
}

thread_local! {
    static IDLE: RefCell<Vec<Compress>> = const { RefCell::new(Vec::new()) };
}

impl<B: http_body::Body<Data = Bytes>> Gzip<B> {
    pub(super) fn new(body: B, permit: OwnedSemaphorePermit) -> Self {
        let encoder = Encoder { compress: None, has_pending: false, _permit: permit };
        Self { body, encoder: Some(encoder), trailers: None }
    }

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>>
    where
        B::Error: Into<BoxError>,
    {
        let mut this = self.project();
        let mut output = Vec::new();
        let mut read = 0;
        loop {
            let Some(encoder) = this.encoder else {
                return Poll::Ready(this.trailers.take().map(Frame::trailers).map(Ok));
            };
            let (data, is_last) = match this.body.as_mut().poll_frame(cx) {
                Poll::Pending if !encoder.has_pending && output.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    encoder.compress(&[], FlushCompress::Sync, &mut output)?;
                    return Poll::Ready(Some(Ok(Frame::data(output.into()))));
                }
                Poll::Ready(Some(Err(error))) => {
                    *this.encoder = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => (data, this.body.is_end_stream()),
                    Err(frame) => {
                        *this.trailers = frame.into_trailers().ok();
                        (Bytes::new(), true)
                    }
                },
                Poll::Ready(None) => (Bytes::new(), true),
            };
            read += data.len();
            let flush = if is_last { FlushCompress::Finish } else { FlushCompress::None };
            encoder.compress(&data, flush, &mut output)?;
            if is_last {
                *this.encoder = None;
                return Poll::Ready(Some(Ok(Frame::data(output.into()))));
            }
            if read >= MAX_READ && output.is_empty() {
                encoder.compress(&[], FlushCompress::Sync, &mut output)?;
            }
            if output.len() >= MAX_OUTPUT || (read >= MAX_READ && !output.is_empty()) {
                return Poll::Ready(Some(Ok(Frame::data(output.into()))));
            }
        }
    }
}

impl Encoder {
    /// Compresses the whole input, and appends the result to the output.
    fn compress(&mut self, input: &[u8], flush: FlushCompress, output: &mut Vec<u8>) -> Result<(), BoxError> {
        let compress = self.compress.get_or_insert_with(|| {
            let idle = IDLE.try_with(|idle| idle.try_borrow_mut().ok()?.pop()).ok().flatten();
            idle.unwrap_or_else(|| Compress::new_gzip(Compression::new(LEVEL), 15))
        });
        let mut rest = input;
        loop {
            output.reserve((rest.len() / 4).clamp(512, MAX_OUTPUT));
            let (before, length) = (compress.total_in(), output.len());
            let status = compress.compress_vec(rest, output, flush)?;
            let consumed = usize::try_from(compress.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(consumed..).unwrap_or_default();
            // If there is room left, the compressor has no more output.
            if status == Status::StreamEnd || (rest.is_empty() && output.len() < output.capacity()) {
                break;
            }
            if consumed == 0 && output.len() == length {
                return Err("the compressor makes no progress".into());
            }
        }
        self.has_pending = matches!(flush, FlushCompress::None);
        Ok(())
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let Some(mut compress) = self.compress.take() else { return };
        compress.reset();
        // Access fails while the thread is being destroyed; then the compressor is just dropped.
        let _ = IDLE.try_with(|idle| {
            if let Ok(mut idle) = idle.try_borrow_mut()
                && idle.len() < MAX_IDLE
            {
                idle.push(compress);
            }
        });
    }
}
