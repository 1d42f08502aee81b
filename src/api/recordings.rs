//! The resource `recordings`: one, delete, download. The list is in `recording_list.rs`.

use std::fmt::Write as _;

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::json::Fields;
use super::{Ctx, FileReply, Reply, success};
use crate::nvr::command::Command;
use crate::store::row::RecordingRow;
use crate::system::clock;

const NOT_FOUND: ApiError = ApiError::NotFound("Recording not found");
/// What GET answers and PUT ignores.
const READ_ONLY: [&str; 10] = [
    "id",
    "stream_id",
    "stream_name",
    "start_time",
    "end_time",
    "duration",
    "size",
    "format",
    "path",
    "in_progress",
];

/// A recording as the contract writes it: these fields, in this order.
#[derive(Serialize)]
struct RecordingOut<'a> {
    id: u64,
    stream_id: u32,
    stream_name: &'a str,
    start_time: String,
    end_time: String,
    duration: i64,
    size: u64,
    format: &'static str,
    path: &'a str,
    protected: bool,
}

/// The JSON of one recording. `duration` is the difference of the shown times, so that they add up.
pub(super) fn to_json(row: &RecordingRow) -> String {
    let start_s = row.start_ms.div_euclid(1000);
    let end_s = row.end_ms.div_euclid(1000).max(start_s);
    let mut out = json::to_string(&RecordingOut {
        id: row.id,
        stream_id: row.stream_id,
        stream_name: &row.stream_name,
        start_time: clock::iso_seconds(start_s * 1000),
        end_time: clock::iso_seconds(end_s * 1000),
        duration: end_s - start_s,
        size: row.size,
        format: "mp4",
        path: &row.path,
        protected: row.is_protected,
    });
    if row.in_progress {
        // miniserde can't leave a field out, and a finished recording has none of this name.
        out.truncate(out.len() - 1);
        out.push_str(r#","in_progress":true}"#);
    }
    out
}

/// The recording as it is now: what runs overrides its row. The snapshot comes first: a recording that
/// ends in between then still has its row.
fn find(ctx: &Ctx, id: u64) -> Result<RecordingRow, ApiError> {
    let snapshot = ctx.snapshot.load();
    if let Some(running) = snapshot.running.iter().find(|running| running.id == id) {
        return Ok(running.row());
    }
    let row = ctx.store.recording(id)?.ok_or(NOT_FOUND)?;
    Ok(RecordingRow { in_progress: false, ..row })
}

/// `GET /recordings/{id}`
pub fn get(ctx: &Ctx, id: u64) -> Result<Reply, ApiError> {
    Ok(Reply::Json(to_json(&find(ctx, id)?)))
}

/// `PUT /recordings/{id}`
pub fn update(ctx: &Ctx, id: u64, fields: &Fields) -> Result<Reply, ApiError> {
    let is_protected = fields.boolean("protected")?;
    fields.ignore(&READ_ONLY);
    fields.finish()?;
    if let Some(is_protected) = is_protected {
        ctx.commands.ask(|reply| Command::ProtectRecording { id, is_protected, reply })?;
    }
    get(ctx, id)
}

/// `DELETE /recordings/{id}`
pub fn delete(ctx: &Ctx, id: u64) -> Result<Reply, ApiError> {
    ctx.commands.ask(|reply| Command::DeleteRecording { id, reply })?;
    Ok(success())
}

/// `GET /recordings/{id}/download`
pub fn download(ctx: &Ctx, id: u64) -> Result<Reply, ApiError> {
    let row = find(ctx, id)?;
    let name = format!("{} {}.mp4", row.stream_name, clock::file_name_time(row.start_ms));
    Ok(Reply::File(FileReply {
        etag: etag(&row),
        size: row.size,
        modified_s: row.end_ms.div_euclid(1000),
        content_type: "video/mp4",
        disposition: disposition(&name),
        path: row.path,
    }))
}

/// A strong validator: files are only appended to, so the size tells one state from another. A finished
/// file differs from the running one of the same size, for `Content-Length` was no promise there.
fn etag(row: &RecordingRow) -> String {
    let state = if row.in_progress { "-live" } else { "" };
    format!("\"{:x}-{:x}-{:x}{state}\"", row.id, row.start_ms, row.size)
}

/// `attachment` with a file name (RFC 6266): in ASCII, and in UTF-8 besides where that says more.
pub(super) fn disposition(name: &str) -> String {
    // What no file system takes, and the quotes of the header itself.
    let safe = |c: char| {
        if matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|') { '_' } else { c }
    };
    let name: String = name.chars().map(safe).collect();
    let ascii: String =
        name.chars().map(|c| if matches!(c, ' '..='~') { c } else { '_' }).collect();
    let mut out = format!("attachment; filename=\"{ascii}\"");
    if ascii != name || ascii.contains('%') {
        out.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            // RFC 8187 section 3.2.1 `attr-char`, less a few that nobody needs.
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                _ => drop(write!(out, "%{byte:02X}")),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row() -> RecordingRow {
        RecordingRow {
            id: 1,
            stream_id: 0,
            stream_name: "Front Door".into(),
            start_ms: 1_741_514_400_000,
            end_ms: 1_741_515_300_000,
            size: 45_678_912,
            path: "/var/lib/lightnvr/recordings/0/20250309_100000.mp4".into(),
            in_progress: false,
            is_protected: false,
            boot: 0,
        }
    }

    #[test]
    fn a_recording_is_written_as_in_the_contract() {
        let want = "{\"id\":1,\"stream_id\":0,\"stream_name\":\"Front Door\",\
                    \"start_time\":\"2025-03-09T10:00:00Z\",\"end_time\":\"2025-03-09T10:15:00Z\",\
                    \"duration\":900,\"size\":45678912,\"format\":\"mp4\",\
                    \"path\":\"/var/lib/lightnvr/recordings/0/20250309_100000.mp4\",\
                    \"protected\":false}";
        assert_eq!(to_json(&row()), want);
        let running = to_json(&RecordingRow { in_progress: true, ..row() });
        assert!(running.ends_with("\"protected\":false,\"in_progress\":true}"), "{running}");
    }

    #[test]
    fn the_etag_tells_every_state_apart() {
        let live = RecordingRow { in_progress: true, ..row() };
        let longer = RecordingRow { size: 45_678_913, ..live.clone() };
        let tags = [etag(&row()), etag(&live), etag(&longer)];
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
        assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')));
    }

    #[test]
    fn file_names_fit_the_header_and_the_file_system() {
        let plain = "Front Door 2025-03-09 10-00-00.mp4";
        assert_eq!(disposition(plain), format!("attachment; filename=\"{plain}\""));
        assert_eq!(
            disposition("Küche/\"1\".mp4"),
            "attachment; filename=\"K_che__1_.mp4\"; filename*=UTF-8''K%C3%BCche__1_.mp4"
        );
    }

    proptest! {
        #[test]
        fn any_name_gives_a_valid_header(name in "\\PC{0,70}") {
            let header = disposition(&name);
            prop_assert!(header.bytes().all(|b| (b' '..=b'~').contains(&b)));
            prop_assert_eq!(header.matches('"').count(), 2);
        }

        #[test]
        fn the_shown_times_add_up(start_ms in 0i64..4_000_000_000_000, length_ms in -5i64..90_000) {
            let row = RecordingRow { start_ms, end_ms: start_ms + length_ms, ..row() };
            let text = to_json(&row);
            let shown = |name: &str| {
                let at = text.find(name).expect("the field") + name.len();
                crate::system::clock::parse_rfc3339_ms(&text[at..at + 20]).expect("a time") / 1000
            };
            let duration = shown("end_time\":\"") - shown("start_time\":\"");
            prop_assert!(duration >= 0);
            let want = format!("\"duration\":{duration},");
            prop_assert!(text.contains(&want), "{}", text);
        }
    }
}
