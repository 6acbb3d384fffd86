//! The way to the log: lines are laid down in memory, and one thread writes them to standard error.
//!
//! Nobody who logs waits for whoever reads the log. Where the reader is slow, stopped or gone, or the disk is full, lines
//! are dropped and counted, and when it takes lines again it is told how many it missed (F60).
//!
//! Must not know: what is logged.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Config;

/// Bytes that may wait to be written: some thousands of lines.
const MOST: usize = 512 << 10;

/// How long the end of the program waits for the last lines to be written.
const LAST: Duration = Duration::from_secs(1);

/// Lines of this process that were never written.
pub static DROPPED: LazyLock<Counter<u64, AtomicU64>> = LazyLock::new(Counter::default);

/// The queue of this process, once its log began.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Begins the log of this process; the settings say what is logged, and in which form. Panics are logged too from here on:
/// written past the queue, one would wait for the log's reader.
pub fn start(config: &Config) {
    let queue = Arc::new(Queue::new(config.log_format == "json"));
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| "info".into());
    // What goes wrong while a line is made would be said on standard error, past the queue.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let logs = logs.with_writer(Writer(Arc::clone(&queue)));
    let begun = if config.log_format == "json" { logs.json().try_init() } else { logs.try_init() };
    if begun.is_err() || QUEUE.set(Arc::clone(&queue)).is_err() {
        return;
    }
    // A descriptor of our own: whoever else writes to standard error does not wait for a lock that we hold.
    let sink = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let thread = match sink {
        Ok(sink) => std::thread::Builder::new().name("log".into()).spawn(move || queue.write_to(sink)).is_ok(),
        Err(_) => false,
    };
    if !thread {
        let _ = writeln!(std::io::stderr(), "grosz: there is no thread for the log; nothing is logged");
    }
    std::panic::set_hook(Box::new(log_panic));
}

/// An error with its causes, each as far as it says something new.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let first_line = |error: &dyn std::error::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut text = first_line(error);
    let mut cause = error.source();
    while let Some(inner) = cause {
        let line = first_line(inner);
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = inner.source();
    }
    text
}

/// Says something to whoever looks at standard error, after what was logged before it.
pub fn say(line: &str) {
    match QUEUE.get() {
        Some(queue) => queue.put(format!("{line}\n").as_bytes()),
        // Nothing runs yet that could be held up, and a reader who is gone is no reason to die.
        None => drop(writeln!(std::io::stderr(), "{line}")),
    }
}

/// Waits until what was logged is written, but no longer than a moment: the last lines of a program say why it ended.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST);
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    // Captured when RUST_BACKTRACE asks for it.
    let trace = std::backtrace::Backtrace::capture();
    let trace = (trace.status() == std::backtrace::BacktraceStatus::Captured).then(|| trace.to_string());
    let (text, name) = (text.unwrap_or("no words"), thread.name().unwrap_or("unnamed"));
    tracing::error!(at, thread = name, trace, "A thread panicked: {text}");
}

/// Lines that wait to be written.
struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    bell: Condvar,
    /// All is written.
    idle: Condvar,
    is_json: bool,
}

#[derive(Default)]
struct State {
    text: Vec<u8>,
    /// Lines that found no room since the last batch was taken.
    dropped: u64,
    is_writing: bool,
}

impl Queue {
    fn new(is_json: bool) -> Queue {
        Queue { state: Mutex::default(), bell: Condvar::new(), idle: Condvar::new(), is_json }
    }

    /// Takes whole lines, or drops them where there is no room.
    fn put(&self, lines: &[u8]) {
        let mut state = self.lock();
        if state.text.len() + lines.len() > MOST {
            state.dropped += 1;
            DROPPED.inc();
            return;
        }
        state.text.extend_from_slice(lines);
        drop(state);
        self.bell.notify_one();
    }

    /// Writes what comes, for ever.
    fn write_to(&self, mut sink: impl Write) {
        // Lines that the sink did not take, and whether it took a part of one.
        let (mut lost, mut is_torn) = (0, false);
        loop {
            let (lines, dropped) = self.next();
            let mut batch = vec![];
            if lost > 0 {
                batch.extend(is_torn.then_some(b'\n'));
                batch.extend(self.notice(lost));
            }
            let notice = batch.len();
            batch.extend(lines);
            let end = batch.len();
            if dropped > 0 {
                batch.extend(self.notice(dropped));
            }
            let written = write(&mut sink, &batch);
            let rest = batch.get(written..).unwrap_or_default();
            if written >= notice {
                lost = 0;
            }
            if !rest.is_empty() {
                let unwritten = count_lines(batch.get(written.max(notice)..end).unwrap_or_default());
                DROPPED.inc_by(unwritten);
                // Those that found no room are counted already, and nobody was told of them.
                lost += unwritten + dropped;
                is_torn = written > 0 && batch.get(written - 1) != Some(&b'\n');
            }
        }
    }

    /// Waits for lines; those that were written before are done with.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.lock();
        state.is_writing = false;
        while state.text.is_empty() {
            self.idle.notify_all();
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_writing = true;
        (std::mem::take(&mut state.text), std::mem::take(&mut state.dropped))
    }

    fn flush(&self, limit: Duration) {
        let unwritten = |s: &mut State| s.is_writing || !s.text.is_empty();
        // When the time is over, it is over.
        drop(self.idle.wait_timeout_while(self.lock(), limit, unwritten));
    }

    fn notice(&self, lines: u64) -> Vec<u8> {
        let text = format!("{lines} log lines were dropped");
        let time = crate::clock::Clock::System.now();
        let line = match self.is_json {
            true => format!(
                "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"fields\":{{\"message\":\"{text}\"}},\"target\":\"grosz::log\"}}\n"
            ),
            false => format!("{time}  WARN grosz::log: {text}\n"),
        };
        line.into_bytes()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes as much as the sink takes; answers how many bytes.
fn write(sink: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match sink.write(rest) {
            Ok(0) => break,
            Ok(n) => written += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

fn count_lines(text: &[u8]) -> u64 {
    let lines = text.iter().filter(|b| **b == b'\n').count();
    u64::try_from(lines).unwrap_or(u64::MAX)
}

/// Where the log's lines are laid down.
struct Writer(Arc<Queue>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = &'a Writer;

    fn make_writer(&'a self) -> &'a Writer {
        self
    }
}

impl Write for &Writer {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::mpsc;

    use super::*;

    const LINE: &[u8; 1000] = &{
        let mut line = [b'x'; 1000];
        line[999] = b'\n';
        line
    };

    fn queue_of(sink: impl Write + Send + 'static) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(false));
        let writer = Arc::clone(&queue);
        std::thread::spawn(move || writer.write_to(sink));
        queue
    }

    // F60
    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (reader, sink) = std::io::pipe().unwrap();
        let queue = queue_of(sink);
        let most = MOST / LINE.len();
        // A pipe holds sixteen pages.
        (0..3 * most).for_each(|_| queue.put(LINE));
        assert!(queue.lock().text.len() <= MOST);
        let (read, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(reader).lines().try_for_each(|line| read.send(line.unwrap())));
        let next = || lines.recv_timeout(Duration::from_secs(60)).unwrap();
        // The writer began when it began: it may have been told of some that were dropped before others.
        let (mut all, mut dropped) = (0, 0);
        while all < 3 * most {
            let line = next();
            let notice = line.strip_suffix(" log lines were dropped").and_then(|line| line.rsplit(' ').next());
            let of_notice: usize = notice.map_or(0, |number| number.parse().unwrap());
            dropped += of_notice;
            all += if notice.is_some() { of_notice } else { 1 };
        }
        assert_eq!(all, 3 * most);
        assert!(dropped > 0);
        queue.put(b"the last\n");
        assert_eq!(next(), "the last");
    }

    /// Takes lines as long as it is told to.
    struct Moody(mpsc::Receiver<bool>, mpsc::Sender<Vec<u8>>);

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if !self.0.recv().unwrap_or(true) {
                return Err(ErrorKind::StorageFull.into());
            }
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    // F60
    #[test]
    fn a_sink_that_takes_lines_again_is_told_what_it_missed() {
        let ((mood, moods), (write, written)) = (mpsc::channel(), mpsc::channel());
        let queue = queue_of(Moody(moods, write));
        for line in ["one\n", "two\n"] {
            queue.put(line.as_bytes());
            mood.send(false).unwrap();
            queue.flush(Duration::from_secs(60));
        }
        queue.put(b"three\n");
        mood.send(true).unwrap();
        let text = String::from_utf8(written.recv().unwrap()).unwrap();
        assert!(text.contains("WARN grosz::log: 2 log lines were dropped\n"), "{text}");
        assert!(text.ends_with("three\n"), "{text}");
        mood.send(true).unwrap();
        queue.put(b"four\n");
        assert_eq!(written.recv().unwrap(), b"four\n");
    }

    #[test]
    fn a_full_device_is_tried_again_without_an_end() {
        let queue = queue_of(File::options().write(true).open("/dev/full").unwrap());
        queue.put(b"lost\n");
        queue.flush(Duration::from_secs(60));
        queue.put(b"lost too\n");
        queue.flush(Duration::from_secs(60));
        assert!(queue.lock().text.is_empty());
    }
}
