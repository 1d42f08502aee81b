//! The resource `system`: how the machine and the recorder are.

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::{Ctx, MachineStats, Reply};
use crate::VERSION;
use crate::nvr::snapshot::{Forecast, Snapshot, StreamStatus, StreamView};
use crate::system::clock;

/// What is written in the first seconds, and each fragment's burst, says nothing of a day.
const UPTIME_S_MIN: u64 = 60;

/// The system as the contract writes it: these fields, in this order.
#[derive(Serialize)]
struct SystemOut {
    version: &'static str,
    uptime: u64,
    cpu_usage: f64,
    memory_usage: f64,
    storage_usage: f64,
    storage_total: u64,
    storage_used: u64,
    storage_free: u64,
    streams_active: usize,
    streams_total: usize,
    recordings_total: u64,
    buffers: Vec<BufferOut>,
    forecast: Vec<ForecastOut>,
    bytes_written: Option<u64>,
    bytes_written_per_day: Option<u64>,
}

/// What waits between a stream that runs and its recordings.
#[derive(Serialize)]
struct BufferOut {
    stream_id: u32,
    ram_bytes: u64,
    spilled_bytes: u64,
    seconds_held: f64,
    seconds_headroom: Option<f64>,
    protection: &'static str,
    packets_dropped: u64,
}

/// How long recordings of a stream will be kept.
#[derive(Serialize)]
struct ForecastOut {
    stream_id: u32,
    days_kept: Option<f64>,
    days_fit: Option<f64>,
    days_wished: Option<u32>,
    short_from: Option<String>,
}

impl ForecastOut {
    fn new(forecast: &Forecast) -> Self {
        let rounded = |days: f64| (days * 100.0).round() / 100.0;
        Self {
            stream_id: forecast.stream_id,
            days_kept: forecast.days_kept.map(rounded),
            days_fit: forecast.days_fit.map(rounded),
            days_wished: forecast.days_wished,
            short_from: forecast.short_from_ms.map(clock::iso_seconds),
        }
    }
}

/// `GET /system`
pub fn get(ctx: &Ctx) -> Result<Reply, ApiError> {
    let snapshot = ctx.snapshot.load();
    let total = recordings_total(ctx, &snapshot)?;
    let uptime = ctx.started.elapsed().as_secs();
    Ok(Reply::Json(json::to_string(&system_out(&(ctx.machine)(), &snapshot, uptime, total))))
}

fn system_out(machine: &MachineStats, snapshot: &Snapshot, uptime: u64, total: u64) -> SystemOut {
    let used = machine.storage_total.saturating_sub(machine.storage_free);
    let is_active = |status| status == StreamStatus::Connected;
    SystemOut {
        version: VERSION,
        uptime,
        cpu_usage: percent(machine.cpu_usage),
        memory_usage: percent(machine.memory_usage),
        storage_usage: percent(100.0 * used as f64 / machine.storage_total.max(1) as f64),
        storage_total: machine.storage_total,
        storage_used: used,
        storage_free: machine.storage_total - used,
        streams_active: snapshot.streams.iter().filter(|view| is_active(view.status)).count(),
        streams_total: snapshot.streams.len(),
        recordings_total: total,
        buffers: snapshot.streams.iter().filter_map(buffer_out).collect(),
        forecast: snapshot.forecast.iter().map(ForecastOut::new).collect(),
        bytes_written: machine.bytes_written,
        bytes_written_per_day: machine.bytes_written.and_then(|bytes| per_day(bytes, uptime)),
    }
}

/// At the average since the start.
fn per_day(bytes: u64, uptime_s: u64) -> Option<u64> {
    let day = u128::from(bytes) * 86_400 / u128::from(uptime_s.max(1));
    u64::try_from(day).ok().filter(|_| uptime_s >= UPTIME_S_MIN)
}

fn buffer_out(view: &StreamView) -> Option<BufferOut> {
    let buffer = view.buffer.as_ref()?;
    let seconds = |ms: u64| (ms / 100) as f64 / 10.0;
    Some(BufferOut {
        stream_id: view.config.id,
        ram_bytes: buffer.ram_bytes,
        spilled_bytes: buffer.spilled_bytes,
        seconds_held: seconds(buffer.held_ms),
        seconds_headroom: buffer.headroom_ms.map(seconds),
        protection: buffer.protection,
        packets_dropped: buffer.dropped,
    })
}

/// One decimal, and in range whatever was measured.
fn percent(x: f64) -> f64 {
    if x.is_finite() { (x.clamp(0.0, 100.0) * 10.0).round() / 10.0 } else { 0.0 }
}

/// Rows, and running recordings that have no row yet.
fn recordings_total(ctx: &Ctx, snapshot: &Snapshot) -> Result<u64, ApiError> {
    let mut total = ctx.store.recording_count()?;
    for running in &snapshot.running {
        if ctx.store.recording(running.id)?.is_none() {
            total += 1;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    fn snapshot() -> Snapshot {
        Snapshot {
            streams: vec![],
            settings: Settings::new("/data".into()),
            running: vec![],
            ailments: vec![],
            ledger: vec![],
            forecast: vec![],
            is_initial_password: false,
            at_ms: 0,
        }
    }

    #[test]
    fn the_numbers_of_the_contract_come_out_as_written() {
        let machine = MachineStats {
            cpu_usage: 15.2,
            memory_usage: 45.7,
            storage_total: 1_000_000_000,
            storage_free: 217_000_000,
            bytes_written: Some(40_000_000_000),
        };
        let out = json::to_string(&system_out(&machine, &snapshot(), 86_400, 48));
        let want = r#""uptime":86400,"cpu_usage":15.2,"memory_usage":45.7,"storage_usage":78.3,"#;
        assert!(out.contains(want), "{out}");
        let want =
            r#""storage_total":1000000000,"storage_used":783000000,"storage_free":217000000,"#;
        assert!(out.contains(want), "{out}");
        let want = r#","bytes_written":40000000000,"bytes_written_per_day":40000000000}"#;
        assert!(out.ends_with(want), "{out}");
    }

    #[test]
    fn what_is_written_in_a_day_is_said_after_a_minute() {
        assert_eq!(per_day(1000, 59), None);
        assert_eq!(per_day(1000, 60), Some(1_440_000));
        assert_eq!(per_day(u64::MAX, 86_400), Some(u64::MAX));
        assert_eq!(per_day(u64::MAX, 60), None);
    }

    #[test]
    fn odd_measurements_stay_in_range_and_add_up() {
        let machine = MachineStats {
            cpu_usage: f64::NAN,
            memory_usage: 130.0,
            storage_total: 5,
            storage_free: 9,
            bytes_written: None,
        };
        let out = system_out(&machine, &snapshot(), 0, 0);
        assert_eq!((out.cpu_usage, out.memory_usage, out.storage_usage), (0.0, 100.0, 0.0));
        assert_eq!(out.storage_total, out.storage_used + out.storage_free);
        assert_eq!(percent(99.96), 100.0);
    }
}
