//! What the machine and this process use: processor, memory, storage, threads.
//!
//! In here: reading `/proc` and statvfs, and the pure parsers of what they say. A kernel that writes a
//! line differently gives `None` or an error, never a panic. `/proc` is memory, so the executor may ask;
//! `storage` may touch a stalled disk and belongs on the disk pool.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is read of a `/proc` file: the first lines of `stat` matter (an `intr` line of a large machine
/// alone has 20 KiB), `meminfo` and `status` have 1.5 KiB.
const PROC_BYTES_MAX: u64 = 8 << 10;
/// Shorter spans are mostly rounding: `/proc/stat` counts in 10 ms.
const CPU_SPAN_MIN: Duration = Duration::from_secs(1);

/// Processor time of the whole machine since it started, in `USER_HZ` ticks (proc(5), `/proc/stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    pub busy: u64,
    pub total: u64,
}

/// A file system in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    pub total: u64,
    /// Available to an unprivileged process: without the blocks that ext4 keeps for root.
    pub free: u64,
    /// `total - free`, so that used and free add up for the owner.
    pub used: u64,
}

/// What this process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// The most it ever was (`VmHWM`), in bytes.
    pub rss_bytes_max: u64,
    pub threads: u32,
}

/// Milliseconds since the machine started, rounded to 10.
pub fn uptime_ms() -> Option<i64> {
    let text = read_proc("/proc/uptime").ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some((seconds * 1000.0) as i64)
}

/// Names this run of the machine: another one after each of its starts (random(4), a UUID).
pub fn boot_id() -> Option<String> {
    read_proc("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// The same in 64 bits; 0 where the kernel does not tell.
pub fn boot_number() -> u64 {
    boot_id().map_or(0, |id| uuid_number(&id))
}

fn uuid_number(uuid: &str) -> u64 {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// Processor and memory use of the machine. Shared by every thread that answers the API.
#[derive(Debug)]
pub struct Machine {
    cpu: Mutex<CpuMeter>,
}

impl Machine {
    /// Takes the first sample of the processor's time.
    pub fn new() -> Self {
        let times = read_proc("/proc/stat").ok().and_then(|text| parse_cpu_times(&text));
        Self { cpu: Mutex::new(CpuMeter::new(Instant::now(), times.unwrap_or_default())) }
    }

    /// Percent (0 to 100) of all processors together that was in use between the last two samples, which
    /// are at least 1 s apart; until there are two, since the machine started.
    pub fn cpu_usage(&self) -> f64 {
        let now = Instant::now();
        if self.meter().is_due(now) {
            // Read without the lock: it is held to look and to store, never over a system call.
            let times = read_proc("/proc/stat").ok().and_then(|text| parse_cpu_times(&text));
            if let Some(times) = times {
                self.meter().sample(now, times);
            }
        }
        self.meter().percent
    }

    /// Percent (0 to 100) of the machine's memory that is not available to programs. An error names what
    /// of `/proc/meminfo` could not be read.
    pub fn memory_usage(&self) -> io::Result<f64> {
        let text = read_proc("/proc/meminfo")?;
        let memory = parse_memory(&text).ok_or_else(|| odd("/proc/meminfo"))?;
        Ok(percent(memory.total_kib - memory.available_kib, memory.total_kib))
    }

    fn meter(&self) -> MutexGuard<'_, CpuMeter> {
        // A panic elsewhere leaves plain numbers behind, which are still good.
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// What is available of the machine's memory.
pub fn memory() -> io::Result<Memory> {
    parse_memory(&read_proc("/proc/meminfo")?).ok_or_else(|| odd("/proc/meminfo"))
}

/// Free swap in KiB; `None` where the kernel does not say.
pub fn swap_free_kib() -> Option<u64> {
    number_of(&read_proc("/proc/meminfo").ok()?, "SwapFree")
}

/// Bytes that this process gave the kernel to write to disks since it began, in whole pages (proc(5),
/// `/proc/PID/io`); `None` where the kernel does not count them.
pub fn bytes_written() -> Option<u64> {
    number_of(&read_proc("/proc/self/io").ok()?, "write_bytes")
}

/// Percent of the last 10 s in which some task waited for memory; `None` where the kernel does not say.
pub fn memory_waiting_percent() -> Option<f64> {
    parse_waiting_percent(&read_proc("/proc/pressure/memory").ok()?)
}

/// Reads `some avg10=` of a file below `/proc/pressure` (Documentation/accounting/psi.rst of Linux).
pub fn parse_waiting_percent(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let value = line.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
    value.parse().ok().filter(|percent: &f64| percent.is_finite())
}

/// Whether the process has this capability (capabilities(7) has the numbers) in force.
pub fn has_capability(number: u32) -> bool {
    let status = read_proc("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> number & 1 == 1)
}

/// Size and room of the file system that holds `path`. Blocks while the disk is stalled.
pub fn storage(path: &Path) -> io::Result<Storage> {
    let fs = rustix::fs::statvfs(path)?;
    // POSIX counts in `f_frsize`; some FUSE file systems leave it 0 and mean `f_bsize`.
    let unit = if fs.f_frsize == 0 { fs.f_bsize } else { fs.f_frsize };
    Ok(storage_from(unit, fs.f_blocks, fs.f_bavail))
}

/// Memory and threads of this process.
pub fn process() -> io::Result<Process> {
    parse_process(&read_proc("/proc/self/status")?).ok_or_else(|| odd("/proc/self/status"))
}

/// Reads the first line of `/proc/stat`. `None` if it is not `cpu` with at least four numbers.
pub fn parse_cpu_times(text: &str) -> Option<CpuTimes> {
    let mut fields = text.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    // user, nice, system, idle, iowait, irq, softirq, steal. guest and guest_nice follow, but are
    // counted in user and nice already.
    let mut ticks = [0u64; 8];
    let mut count = 0;
    for (tick, field) in ticks.iter_mut().zip(fields) {
        *tick = field.parse().ok()?;
        count += 1;
    }
    if count < 4 {
        return None;
    }
    let idle = ticks[3].saturating_add(ticks[4]);
    let total = ticks.iter().fold(0u64, |sum, &tick| sum.saturating_add(tick));
    Some(CpuTimes { busy: total.saturating_sub(idle), total })
}

/// Of `/proc/meminfo`; `available_kib` is at most `total_kib`, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total_kib: u64,
    pub available_kib: u64,
}

/// Reads `/proc/meminfo`.
pub fn parse_memory(text: &str) -> Option<Memory> {
    let total_kib = number_of(text, "MemTotal")?;
    // Vendor kernels before 3.14 have no MemAvailable; this is how free(1) guessed then.
    let available_kib = number_of(text, "MemAvailable").or_else(|| {
        let parts = ["MemFree", "Buffers", "Cached"].map(|name| number_of(text, name).unwrap_or(0));
        number_of(text, "MemFree").map(|_| parts.iter().fold(0, |a: u64, b| a.saturating_add(*b)))
    })?;
    // Ballooned virtual machines were seen with more available than there is.
    (total_kib > 0).then(|| Memory { total_kib, available_kib: available_kib.min(total_kib) })
}

/// Reads `/proc/self/status`.
pub fn parse_process(text: &str) -> Option<Process> {
    let bytes = |name| number_of(text, name).map(|kib| kib.saturating_mul(1024));
    Some(Process {
        rss_bytes: bytes("VmRSS")?,
        rss_bytes_max: bytes("VmHWM")?,
        threads: u32::try_from(number_of(text, "Threads")?).ok()?,
    })
}

/// The number in the line `NAME:   123 kB`.
fn number_of(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

fn storage_from(unit: u64, blocks: u64, blocks_free: u64) -> Storage {
    let total = unit.saturating_mul(blocks);
    // Network file systems were seen with more free than there is.
    let free = unit.saturating_mul(blocks_free).min(total);
    Storage { total, free, used: total - free }
}

/// Two samples of the processor's time become a percentage.
#[derive(Debug)]
struct CpuMeter {
    at: Instant,
    times: CpuTimes,
    percent: f64,
}

impl CpuMeter {
    fn new(at: Instant, times: CpuTimes) -> Self {
        Self { at, times, percent: percent(times.busy, times.total) }
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= CPU_SPAN_MIN
    }

    /// Takes a sample, unless another thread just did.
    fn sample(&mut self, now: Instant, times: CpuTimes) {
        if !self.is_due(now) {
            return;
        }
        // proc(5): iowait may go down, and hot-unplugged processors take their time away.
        let total = times.total.saturating_sub(self.times.total);
        let busy = times.busy.saturating_sub(self.times.busy).min(total);
        if total > 0 {
            self.percent = percent(busy, total);
        }
        self.at = now;
        self.times = times;
    }
}

/// `part` of `whole` in percent, 0 when there is no whole.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 100.0 / whole as f64).clamp(0.0, 100.0) }
}

fn read_proc(path: &str) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(2048);
    File::open(path)?.take(PROC_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn odd(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as proc(5) says"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Raspberry Pi Zero 2 W, Linux 6.6.
    const MEMINFO: &str = "MemTotal:         438124 kB\nMemFree:          170232 kB\n\
        MemAvailable:     305148 kB\nBuffers:           13264 kB\nCached:           168360 kB\n\
        SwapCached:            0 kB\nHugePages_Total:       0\n";
    /// Linux 3.4 of an Allwinner board: no MemAvailable.
    const MEMINFO_OLD: &str = "MemTotal:         512000 kB\nMemFree:          100000 kB\n\
        Buffers:           20000 kB\nCached:            80000 kB\n";

    #[track_caller]
    fn check_cpu(text: &str, want: Option<(u64, u64)>) {
        let want = want.map(|(busy, total)| CpuTimes { busy, total });
        assert_eq!(parse_cpu_times(text), want, "{text:?}");
    }

    #[test]
    fn a_run_of_the_machine_has_a_number() {
        assert_eq!(uuid_number("0123abcd-4567-89ab-cdef-0123456789ab"), 0x0123_abcd_4567_89ab);
        assert_eq!(uuid_number(""), 0);
        assert_eq!(boot_number(), uuid_number(&boot_id().expect("Linux tells")));
    }

    #[test]
    fn processor_times() {
        let modern = "cpu  7181 12 3350 241508 922 0 131 5 40 0\ncpu0 1 2 3 4\nintr 5";
        check_cpu(modern, Some((10_679, 253_109)));
        check_cpu("cpu  10 0 20 70\n", Some((30, 100))); // Linux 2.4
        check_cpu("cpu 10 0 20 70 5 1 2", Some((33, 108))); // no steal, no line end
        check_cpu("cpu  18446744073709551615 1 1 1 1 1 1 1\n", Some((u64::MAX - 2, u64::MAX)));
        check_cpu("cpu  10 0 20\n", None);
        check_cpu("cpu0 10 0 20 70\n", None);
        check_cpu("cpu  10 0 -20 70\n", None);
        check_cpu("cpu  10 0 2x 70\n", None);
        check_cpu("cpu  18446744073709551616 0 20 70\n", None);
        check_cpu("", None);
        check_cpu("\n\n", None);
    }

    #[test]
    fn memory() {
        let want = |total_kib, available_kib| Some(Memory { total_kib, available_kib });
        assert_eq!(parse_memory(MEMINFO), want(438_124, 305_148));
        assert_eq!(parse_memory(MEMINFO_OLD), want(512_000, 200_000));
        assert_eq!(parse_memory("MemTotal: 100 kB\nMemAvailable: 200 kB\n"), want(100, 100));
        assert_eq!(parse_memory("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        assert_eq!(parse_memory("MemTotal: 100 kB\n"), None);
        assert_eq!(parse_memory("MemTotal:\nMemAvailable: 1 kB\n"), None);
        assert_eq!(parse_memory("MemTotalX: 5 kB\nMemFree: 1 kB\n"), None);
        assert_eq!(parse_memory(""), None);
    }

    #[test]
    fn process_status() {
        let text = "Name:\tlightnvr\nVmPeak:\t   90000 kB\nVmHWM:\t   12000 kB\n\
            VmRSS:\t    8000 kB\nThreads:\t9\n";
        let want = Process { rss_bytes: 8_192_000, rss_bytes_max: 12_288_000, threads: 9 };
        assert_eq!(parse_process(text), Some(want));
        assert_eq!(parse_process("Name:\tkthreadd\nThreads:\t1\n"), None); // a kernel thread
        assert_eq!(parse_process("VmRSS: 1 kB\nVmHWM: 1 kB\nThreads: 4294967296\n"), None);
    }

    #[test]
    fn storage_never_shows_more_free_than_there_is() {
        let want = Storage { total: 4_096_000, free: 409_600, used: 3_686_400 };
        assert_eq!(storage_from(4096, 1000, 100), want);
        assert_eq!(storage_from(4096, 10, 100), Storage { total: 40_960, free: 40_960, used: 0 });
        assert_eq!(storage_from(4096, u64::MAX, 0).used, u64::MAX);
        assert_eq!(storage_from(0, 1, 1), Storage { total: 0, free: 0, used: 0 });
    }

    #[test]
    fn processor_use_is_of_the_time_between_samples() {
        let t0 = Instant::now();
        let at = |ms| t0 + Duration::from_millis(ms);
        let times = |busy, total| CpuTimes { busy, total };
        let mut meter = CpuMeter::new(t0, times(100, 1000));
        assert_eq!(meter.percent, 10.0, "since the machine started");
        meter.sample(at(999), times(900, 1100));
        assert_eq!(meter.percent, 10.0, "too soon");
        meter.sample(at(1000), times(150, 1100));
        assert_eq!(meter.percent, 50.0);
        meter.sample(at(2000), times(150, 1100));
        assert_eq!(meter.percent, 50.0, "no tick passed");
        meter.sample(at(3000), times(500, 1200));
        assert_eq!(meter.percent, 100.0, "iowait went down");
        meter.sample(at(4000), times(10, 20));
        assert_eq!(meter.percent, 100.0, "a processor was taken away");
        meter.sample(at(5000), times(10, 120));
        assert_eq!(meter.percent, 0.0);
    }

    #[test]
    fn this_machine_answers() {
        let machine = Machine::new();
        assert!((0.0..=100.0).contains(&machine.cpu_usage()));
        let memory = machine.memory_usage().expect("/proc/meminfo");
        assert!(memory > 0.0 && memory < 100.0, "{memory}");
        let own = process().expect("/proc/self/status");
        assert!(own.threads >= 1 && own.rss_bytes > 0 && own.rss_bytes_max >= own.rss_bytes / 2);
        let disk = storage(Path::new("/")).expect("statvfs");
        assert!(disk.total > 0 && disk.used + disk.free == disk.total);
        let missing = storage(Path::new("/no/such/path")).expect_err("not there");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in any::<String>()) {
            let _ = (parse_cpu_times(&text), parse_memory(&text), parse_process(&text));
        }

        #[test]
        fn near_misses_never_panic(
            text in "(cpu|MemTotal:|MemAvailable:|MemFree:|VmRSS:|VmHWM:|Threads:|[ 0-9kB\\n-]){0,40}"
        ) {
            if let Some(times) = parse_cpu_times(&text) {
                prop_assert!(times.busy <= times.total);
            }
            if let Some(memory) = parse_memory(&text) {
                prop_assert!(memory.available_kib <= memory.total_kib && memory.total_kib > 0);
            }
            let _ = parse_process(&text);
        }

        #[test]
        fn any_samples_give_a_percentage(samples in prop::collection::vec(any::<(u64, u64)>(), 1..8)) {
            let t0 = Instant::now();
            let mut meter = CpuMeter::new(t0, CpuTimes::default());
            for (n, (busy, total)) in (1..).zip(samples) {
                meter.sample(t0 + CPU_SPAN_MIN * n, CpuTimes { busy, total });
                prop_assert!((0.0..=100.0).contains(&meter.percent));
            }
        }
    }
}
