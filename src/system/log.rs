//! The log: lines on standard error, written by a thread of their own.
//!
//! simplelog formats a line where it is logged, so that its time is true; a bounded queue takes it to the
//! thread `log`, because standard error (a serial console, a stalled journal) may block for seconds and the
//! executor may not. When the queue is full, lines are left out and counted, and `N log lines lost` stands in
//! their place. The last lines are kept for who asks (`log_recent.rs`), also those that are lost here.
//! What cameras and clients send ends up in messages: control characters are escaped, so that nobody out
//! there writes terminal escapes or lines that look like ours.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use simplelog::{Config, ConfigBuilder, LevelPadding, WriteLogger};

use super::{clock, log_recent, pool};

/// Lines that wait for the thread; together at most 2 MiB.
pub const LOG_LINES_MAX: usize = 1024;
/// Longest line in bytes with its line feed; the rest of a longer one is left out.
pub const LINE_BYTES_MAX: usize = 2048;
/// How long `flush` waits: well within the 3 s that the recorder has to end.
pub const FLUSH_MAX: Duration = Duration::from_millis(500);

/// Longest module name in a line, in bytes. Time and level take 45 bytes more.
const TARGET_BYTES_MAX: usize = 128;
/// What is left for the message, in bytes.
const MESSAGE_BYTES_MAX: usize = LINE_BYTES_MAX - TARGET_BYTES_MAX - 64;
/// Ends a message that was cut.
const CUT_MARK: &str = "...";

/// Makes this the program's log, from `level` up, and starts the thread `log`. An error if the program
/// has a log already or the thread does not start.
pub fn init(level: LevelFilter) -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    log::set_boxed_logger(Box::new(QueueLog::new(level, Arc::clone(&queue))))
        .map_err(|_| io::Error::other("the log is set up already"))?;
    log::set_max_level(level);
    drop(pool::spawn("log", move || write_lines(&queue, &mut io::stderr()))?);
    Ok(())
}

/// Waits until every line logged so far is written, at most `FLUSH_MAX`. For the end of the program: it
/// blocks its thread.
pub fn flush() {
    log::logger().flush();
}

/// Escapes and cuts what is logged, and has simplelog format it into the queue.
struct QueueLog {
    queue: Arc<Queue>,
    formatter: Box<WriteLogger<LineWriter>>,
}

impl QueueLog {
    fn new(level: LevelFilter, queue: Arc<Queue>) -> Self {
        let writer = LineWriter { queue: Arc::clone(&queue), line: Vec::new() };
        Self { queue, formatter: WriteLogger::new(level, line_format(), writer) }
    }
}

impl Log for QueueLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.formatter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Formatted before simplelog takes its lock: a `Display` that panics or logs stays outside.
        let target = printable(format_args!("{}", record.target()), TARGET_BYTES_MAX);
        let message = printable(*record.args(), MESSAGE_BYTES_MAX);
        let mut clean = Record::builder();
        clean.level(record.level()).target(&target);
        self.formatter.log(&clean.args(format_args!("{message}")).build());
    }

    fn flush(&self) {
        self.queue.wait_until_written(FLUSH_MAX);
    }
}

/// `2025-03-09T10:00:00.123456789Z [WARN ] lightnvr::ingest: message`, in UTC.
fn line_format() -> Config {
    ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_level_padding(LevelPadding::Right)
        .set_target_level(LevelFilter::Error)
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build()
}

/// Where simplelog writes to: gathers the pieces of a line and queues it at its line feed.
struct LineWriter {
    queue: Arc<Queue>,
    line: Vec<u8>,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Never cuts: target and message are bounded by now. The bound guards against a longer prefix.
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len() + 1);
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        self.line.extend_from_slice(&text[..text.len().min(room)]);
        if bytes.ends_with(b"\n") {
            self.line.push(b'\n');
            log_recent::push(&self.line);
            self.queue.push(std::mem::take(&mut self.line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines on their way to the thread.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    /// Something was queued, or everything was written.
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    /// Lines that found no room since the last one that did.
    lost: u64,
    /// The thread has taken lines and not written them all.
    is_writing: bool,
}

impl Queue {
    /// Queues one line, or counts it as lost.
    fn push(&self, mut line: Vec<u8>) {
        let mut state = self.lock();
        if state.lines.len() >= LOG_LINES_MAX {
            state.lost = state.lost.saturating_add(1);
            return;
        }
        if state.lost > 0 {
            let mut told = lost_notice(std::mem::take(&mut state.lost)).into_bytes();
            told.append(&mut line);
            line = told;
        }
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for lines and takes one. Calling it says that the one before is written.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        state.is_writing = false;
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.is_writing = true;
                return line;
            }
            if state.lost > 0 {
                // Caught up, and no later line has told it.
                state.is_writing = true;
                return lost_notice(std::mem::take(&mut state.lost)).into_bytes();
            }
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_until_written(&self, wait_max: Duration) {
        let deadline = Instant::now() + wait_max;
        let mut state = self.lock();
        while state.is_writing || !state.lines.is_empty() || state.lost > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing panics under this lock, and a log that panics because of a panic helps nobody.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost_notice(lost: u64) -> String {
    let now = clock::iso_seconds(clock::wall_ms());
    format!("{now} [WARN ] {}: {lost} log lines lost\n", module_path!())
}

/// The thread `log`: ends with the program.
fn write_lines(queue: &Queue, out: &mut dyn Write) {
    loop {
        let line = queue.next();
        // There is nowhere left to tell that standard error is gone.
        drop(out.write_all(&line).and_then(|()| out.flush()));
    }
}

/// Writes `args` on one line without control characters, in at most `bytes_max` bytes.
fn printable(args: fmt::Arguments<'_>, bytes_max: usize) -> String {
    let mut text = Printable { text: String::new(), bytes_max: bytes_max - CUT_MARK.len() };
    // Stops early when the text is full, so that a huge message costs no more than a line.
    if text.write_fmt(args).is_err() {
        text.text.push_str(CUT_MARK);
    }
    text.text
}

struct Printable {
    text: String,
    bytes_max: usize,
}

impl fmt::Write for Printable {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        for c in piece.chars() {
            let start = self.text.len();
            if is_deceptive(c) {
                self.text.extend(c.escape_default());
            } else {
                self.text.push(c);
            }
            if self.text.len() > self.bytes_max {
                self.text.truncate(start); // no half character, no half escape
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

/// Control characters (C0, DEL, C1), and what Unicode has to end lines and to turn their direction.
fn is_deceptive(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || c == '\u{61c}'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc;

    fn log_to(queue: &Arc<Queue>) -> QueueLog {
        QueueLog::new(LevelFilter::Info, Arc::clone(queue))
    }

    fn say(log: &QueueLog, level: log::Level, args: fmt::Arguments<'_>) {
        log.log(&Record::builder().level(level).target("lightnvr::test").args(args).build());
    }

    fn next_text(queue: &Queue) -> String {
        String::from_utf8(queue.next()).expect("lines are UTF-8")
    }

    #[test]
    fn a_line_has_time_level_module_and_message() {
        let queue = Arc::default();
        let log = log_to(&queue);
        say(&log, log::Level::Warn, format_args!("camera {} is late", 7));
        let line = next_text(&queue);
        let (time, rest) = line.split_once(' ').expect("time and rest");
        assert_eq!(rest, "[WARN ] lightnvr::test: camera 7 is late\n");
        let age_ms = clock::wall_ms() - clock::parse_rfc3339_ms(time).expect("RFC 3339");
        assert!((0..60_000).contains(&age_ms), "{time}");
    }

    #[test]
    fn a_line_below_the_level_is_left_out() {
        let queue = Arc::default();
        let log = log_to(&queue);
        say(&log, log::Level::Debug, format_args!("quiet"));
        say(&log, log::Level::Info, format_args!("loud"));
        assert!(next_text(&queue).ends_with(": loud\n"));
        assert!(queue.lock().lines.is_empty());
    }

    #[track_caller]
    fn check_printable(text: &str, want: &str) {
        assert_eq!(printable(format_args!("{text}"), 100), want, "{text:?}");
    }

    #[test]
    fn nobody_writes_escapes_or_lines_of_their_own() {
        check_printable("Grüße, 門 😀", "Grüße, 門 😀");
        check_printable("a\nb\r\nc\td", "a\\nb\\r\\nc\\td");
        check_printable("\x1b[31mred\x07\0\x7f", "\\u{1b}[31mred\\u{7}\\u{0}\\u{7f}");
        check_printable("\u{9b}2J\u{85}", "\\u{9b}2J\\u{85}");
        check_printable("a\u{202e}b\u{2028}c\u{2066}", "a\\u{202e}b\\u{2028}c\\u{2066}");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(printable(format_args!("{}", "ä".repeat(9)), 10), "äää...");
        assert_eq!(printable(format_args!("{}", "\x1b".repeat(9)), 10), "\\u{1b}...");
        let queue = Arc::default();
        let log = log_to(&queue);
        let long = "x".repeat(1 << 20);
        let record =
            |args| Record::builder().level(log::Level::Error).target(&long).args(args).build();
        log.log(&record(format_args!("{long}")));
        let line = next_text(&queue);
        assert!(line.len() <= LINE_BYTES_MAX && line.len() > LINE_BYTES_MAX - 64, "{}", line.len());
        assert!(line.ends_with("x...\n"));
    }

    #[test]
    fn a_full_queue_loses_lines_and_the_next_line_tells_how_many() {
        let queue = Arc::default();
        let log = log_to(&queue);
        for n in 0..LOG_LINES_MAX + 3 {
            say(&log, log::Level::Info, format_args!("line {n}"));
        }
        assert!(next_text(&queue).ends_with(": line 0\n"));
        say(&log, log::Level::Info, format_args!("after"));
        for n in 1..LOG_LINES_MAX {
            assert!(next_text(&queue).ends_with(&format!(": line {n}\n")));
        }
        let last = next_text(&queue);
        let (notice, line) = last.split_once('\n').expect("two lines");
        assert!(notice.ends_with("[WARN ] lightnvr::system::log: 3 log lines lost"), "{notice}");
        assert!(line.ends_with(": after\n"), "{line}");
        assert_eq!(queue.lock().lost, 0);
    }

    #[test]
    fn lost_lines_are_told_also_when_no_line_follows() {
        let queue = Queue::default();
        for _ in 0..LOG_LINES_MAX + 2 {
            queue.push(b"line\n".to_vec());
        }
        for _ in 0..LOG_LINES_MAX {
            assert_eq!(next_text(&queue), "line\n");
        }
        assert!(next_text(&queue).ends_with(": 2 log lines lost\n"));
        assert!(queue.lock().is_writing && queue.lock().lost == 0);
    }

    #[test]
    fn a_program_has_one_log() {
        init(LevelFilter::Off).expect("the first");
        assert!(init(LevelFilter::Trace).is_err());
        assert_eq!(log::max_level(), LevelFilter::Off);
        flush();
    }

    /// Says when a write began, and waits until it may go on.
    struct Gate(mpsc::Sender<Vec<u8>>, mpsc::Receiver<()>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            self.1.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn flush_waits_for_the_last_write_and_not_for_ever() {
        let queue: Arc<Queue> = Arc::default();
        queue.wait_until_written(FLUSH_MAX); // nothing to wait for
        let (began, writes) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let shared = Arc::clone(&queue);
        let body = move || write_lines(&shared, &mut Gate(began, may_go));
        drop(pool::spawn("log-test", body).expect("thread"));
        queue.push(b"one\n".to_vec());
        assert_eq!(writes.recv().expect("write"), b"one\n");
        assert!(queue.lock().is_writing && queue.lock().lines.is_empty());
        queue.wait_until_written(Duration::from_millis(1)); // stalled: comes back all the same
        go.send(()).expect("thread waits");
        queue.wait_until_written(Duration::from_secs(60));
        assert!(!queue.lock().is_writing);
    }

    proptest! {
        #[test]
        fn a_message_is_one_bounded_line(text in any::<String>(), bytes_max in 16usize..200) {
            let line = printable(format_args!("{text}"), bytes_max);
            prop_assert!(line.len() <= bytes_max);
            prop_assert!(!line.chars().any(is_deceptive));
        }
    }
}
