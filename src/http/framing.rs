//! Requests that can be read in two ways are read in none (F44). One with both `Content-Length` and
//! `Transfer-Encoding` may be answered by the second alone (RFC 9112, 6.3), which is what the HTTP library does: it takes
//! the first out of the head. A proxy before us may have gone by the first, so such a request is refused here; to see
//! it, the names of a head's lines are read as they arrive.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use crate::problem::Problem;
use axum::http::{HeaderMap, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";

/// Bytes of a head's names and values at most.
const LARGEST_HEAD: usize = 16 * 1024;

/// What the head that arrives now says of its body's length.
#[derive(Clone, Default)]
pub struct Framing(Arc<Mutex<Head>>);

#[derive(Default)]
struct Head {
    /// The beginning of the line that arrives now, in small letters.
    line: [u8; CODING.len()],
    /// How many bytes of the line have come, without its end.
    length: usize,
    has_length: bool,
    has_coding: bool,
    /// The head has ended; what comes now is a body.
    is_over: bool,
}

impl Head {
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.is_over {
                return;
            }
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                byte => {
                    if let Some(place) = self.line.get_mut(self.length) {
                        *place = byte.to_ascii_lowercase();
                    }
                    self.length += 1;
                }
            }
        }
    }

    fn end_line(&mut self) {
        let begins_with = |name: &[u8]| self.length >= name.len() && self.line.starts_with(name);
        let (has_length, has_coding) = (begins_with(LENGTH), begins_with(CODING));
        self.has_length |= has_length;
        self.has_coding |= has_coding;
        // Blank lines before a head belong to none.
        self.is_over = self.length == 0 && (self.has_length || self.has_coding);
        self.length = 0;
    }
}

impl Framing {
    /// The head was read as these headers: answers why its request is refused.
    pub fn check(&self, headers: &HeaderMap) -> Option<Problem> {
        let (has_both, coding) = {
            let mut head = self.lock();
            head.is_over = true;
            (head.has_length && head.has_coding, headers.get_all(header::TRANSFER_ENCODING))
        };
        // Other codings than the one that every server must know are nobody's here.
        let is_odd = coding.iter().count() > 1 || coding.iter().any(|c| !c.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if has_both && headers.contains_key(header::TRANSFER_ENCODING) || is_odd {
            let detail =
                "the length of the body can be read in two ways: send Content-Length, or Transfer-Encoding: chunked";
            return Some(Problem::of_status(StatusCode::BAD_REQUEST).detail(detail));
        }
        let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let detail = || format!("the headers have more than {LARGEST_HEAD} bytes");
        let problem = || Problem::of_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE).detail(detail());
        (size > LARGEST_HEAD).then(problem)
    }

    /// The answer is made: what comes now is the next head.
    pub fn begin(&self) {
        *self.lock() = Head::default();
    }

    fn lock(&self) -> MutexGuard<'_, Head> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A connection whose heads are looked at as they arrive.
pub struct Watched<S> {
    /// The connection.
    pub stream: S,
    /// What is known of the head.
    pub framing: Framing,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled {
            self.framing.lock().read(buf.filled().get(before..).unwrap_or_default());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, expect: (bool, bool)) {
        // However it is cut.
        for cut in 0..head.len() {
            let mut read = Head::default();
            let (one, two) = head.as_bytes().split_at(cut);
            read.read(one);
            read.read(two);
            assert_eq!((read.has_length, read.has_coding), expect, "{head:?} cut at {cut}");
        }
    }

    #[test]
    fn the_names_of_a_head_are_read_however_it_is_cut() {
        check("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", (true, false));
        check("POST / HTTP/1.1\r\nTRANSFER-ENCODING:chunked\r\ncontent-length: 3\r\n\r\n", (true, true));
        check("POST / HTTP/1.1\ncontent-length: 3\ntransfer-encoding: x\n\n", (true, true));
        check("POST / HTTP/1.1\r\nX-Content-Length: 3\r\nTransfer-Encodings: x\r\n\r\n", (false, false));
        check("POST / HTTP/1.1\r\ncontent-length: 30\r\n\r\ntransfer-encoding: chunked\r\n\r\n", (true, false));
        check("\r\n\r\nPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", (false, true));
    }
}
