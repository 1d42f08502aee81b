//! Path text to `Route`, once; and which methods each route has. Keeps PURE-CORE.
//!
//! Paths are taken as sent: one resource has one URL, so there is no decoding and no tolerance.

use super::page::{self, Asset};

/// The methods of the API; everything else is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Other,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Streams,
    Stream(u32),
    StreamTest,
    Ledger(u32),
    /// One MP4 of a stream's recordings.
    Export(u32),
    Recordings,
    Recording(u64),
    Download(u64),
    /// A file of a stream's HLS.
    Hls(u32, HlsFile),
    /// A stream's fragmented MP4 over WebSocket.
    LiveSocket(u32),
    /// A stream as JPEG pictures one after the other.
    Mjpeg(u32),
    /// A stream's newest keyframe as a JPEG picture.
    Snapshot(u32),
    /// Cameras on this machine.
    Devices,
    System,
    SystemLog,
    Update,
    Backup,
    Settings,
    Password,
    Session,
    AdoptStorage,
    OpenApi,
    Health,
    /// The page and what it loads.
    Asset(&'static Asset),
    NotFound,
}

/// The files of a stream's HLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HlsFile {
    /// `playlist.m3u8`: the media playlist.
    Playlist,
    /// `master.m3u8`: the multivariant playlist.
    Master,
    /// `init_7.mp4`
    Init(u64),
    /// `seg_7.m4s`
    Segment(u64),
    /// `part_7.m4s`
    Part(u64),
}

/// Turns a path (without its query) into a route.
pub fn parse_route(path: &str) -> Route {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    match parts[..] {
        ["api", "v1", "streams"] => Route::Streams,
        ["api", "v1", "streams", "test"] => Route::StreamTest,
        ["api", "v1", "streams", id] => parse_id(id).map_or(Route::NotFound, Route::Stream),
        ["api", "v1", "streams", id, "export.mp4"] => {
            parse_id(id).map_or(Route::NotFound, Route::Export)
        }
        ["api", "v1", "streams", id, "ledger"] => {
            parse_id(id).map_or(Route::NotFound, Route::Ledger)
        }
        ["api", "v1", "recordings"] => Route::Recordings,
        ["api", "v1", "recordings", id] => parse_id(id).map_or(Route::NotFound, Route::Recording),
        ["api", "v1", "recordings", id, "download"] => {
            parse_id(id).map_or(Route::NotFound, Route::Download)
        }
        ["api", "v1", "streaming", id, "hls", file] => match (parse_id(id), parse_hls_file(file)) {
            (Some(id), Some(file)) => Route::Hls(id, file),
            _ => Route::NotFound,
        },
        ["api", "v1", "streaming", id, "live"] => {
            parse_id(id).map_or(Route::NotFound, Route::LiveSocket)
        }
        ["api", "v1", "streaming", id, "mjpeg"] => {
            parse_id(id).map_or(Route::NotFound, Route::Mjpeg)
        }
        ["api", "v1", "streaming", id, "snapshot.jpg"] => {
            parse_id(id).map_or(Route::NotFound, Route::Snapshot)
        }
        ["api", "v1", "devices"] => Route::Devices,
        ["api", "v1", "system"] => Route::System,
        ["api", "v1", "backup"] => Route::Backup,
        ["api", "v1", "system", "log"] => Route::SystemLog,
        ["api", "v1", "system", "update"] => Route::Update,
        ["api", "v1", "settings"] => Route::Settings,
        ["api", "v1", "password"] => Route::Password,
        ["api", "v1", "session"] => Route::Session,
        ["api", "v1", "storage", "adopt"] => Route::AdoptStorage,
        ["api", "v1", "openapi.json"] => Route::OpenApi,
        ["api", ..] => Route::NotFound,
        ["healthz"] => Route::Health,
        _ => page::find(path).map_or(Route::NotFound, Route::Asset),
    }
}

/// Plain decimal: `str::parse` would also take `+7` and `007`, and one resource would have two URLs.
pub fn parse_id<T: std::str::FromStr + ToString>(s: &str) -> Option<T> {
    let id: T = s.parse().ok()?;
    (id.to_string() == s).then_some(id)
}

fn parse_hls_file(name: &str) -> Option<HlsFile> {
    let numbered =
        |start: &str, end: &str| name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    match name {
        "playlist.m3u8" => return Some(HlsFile::Playlist),
        "master.m3u8" => return Some(HlsFile::Master),
        _ => {}
    }
    if let Some(number) = numbered("init_", ".mp4") {
        return parse_id(number).map(HlsFile::Init);
    }
    if let Some(number) = numbered("seg_", ".m4s") {
        return parse_id(number).map(HlsFile::Segment);
    }
    parse_id(numbered("part_", ".m4s")?).map(HlsFile::Part)
}

impl Route {
    /// The methods that this route has.
    pub fn methods(self) -> &'static [Method] {
        use Method::{Delete, Get, Head, Post, Put};
        match self {
            Self::Streams | Self::Update => &[Get, Head, Post],
            Self::Stream(_) | Self::Recording(_) => &[Get, Head, Put, Delete],
            Self::Settings | Self::Backup => &[Get, Head, Put],
            Self::Password => &[Put],
            Self::Session => &[Get, Head, Post, Delete],
            Self::AdoptStorage | Self::StreamTest => &[Post],
            Self::NotFound => &[],
            _ => &[Get, Head],
        }
    }

    /// The same as the value of an `Allow` header.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Streams | Self::Update => "GET, HEAD, POST",
            Self::Stream(_) | Self::Recording(_) => "GET, HEAD, PUT, DELETE",
            Self::Settings | Self::Backup => "GET, HEAD, PUT",
            Self::Password => "PUT",
            Self::Session => "GET, HEAD, POST, DELETE",
            Self::AdoptStorage | Self::StreamTest => "POST",
            Self::NotFound => "",
            _ => "GET, HEAD",
        }
    }
}

impl Method {
    /// The method with this name; names are case-sensitive (RFC 9110 section 9.1).
    pub fn parse(name: &str) -> Self {
        match name {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_route(path: &str, want: Route) {
        assert_eq!(parse_route(path), want, "{path}");
    }

    #[test]
    fn routes() {
        check_route("/api/v1/streams", Route::Streams);
        check_route("/api/v1/streams/7", Route::Stream(7));
        check_route("/api/v1/streams/0", Route::Stream(0));
        check_route("/api/v1/streams/test", Route::StreamTest);
        check_route("/api/v1/streams/7/export.mp4", Route::Export(7));
        check_route("/api/v1/streams/7/ledger", Route::Ledger(7));
        check_route("/api/v1/recordings", Route::Recordings);
        check_route("/api/v1/recordings/18446744073709551615", Route::Recording(u64::MAX));
        check_route("/api/v1/recordings/7/download", Route::Download(7));
        check_route("/api/v1/streaming/7/live", Route::LiveSocket(7));
        check_route("/api/v1/streaming/7/mjpeg", Route::Mjpeg(7));
        check_route("/api/v1/streaming/7/snapshot.jpg", Route::Snapshot(7));
        let hls = |file| format!("/api/v1/streaming/3/hls/{file}");
        check_route(&hls("playlist.m3u8"), Route::Hls(3, HlsFile::Playlist));
        check_route(&hls("master.m3u8"), Route::Hls(3, HlsFile::Master));
        check_route(&hls("init_12.mp4"), Route::Hls(3, HlsFile::Init(12)));
        check_route(&hls("seg_12.m4s"), Route::Hls(3, HlsFile::Segment(12)));
        check_route(&hls("part_12.m4s"), Route::Hls(3, HlsFile::Part(12)));
        check_route("/api/v1/devices", Route::Devices);
        check_route("/api/v1/system", Route::System);
        check_route("/api/v1/backup", Route::Backup);
        check_route("/api/v1/system/log", Route::SystemLog);
        check_route("/api/v1/system/update", Route::Update);
        check_route("/api/v1/settings", Route::Settings);
        check_route("/api/v1/password", Route::Password);
        check_route("/api/v1/session", Route::Session);
        check_route("/api/v1/storage/adopt", Route::AdoptStorage);
        check_route("/api/v1/openapi.json", Route::OpenApi);
        check_route("/healthz", Route::Health);
    }

    #[test]
    fn what_is_no_route() {
        for path in [
            "",
            "api/v1/streams",
            "//api/v1/streams",
            "/api/v1/streams/",
            "/api/v1/streams/abc",
            "/api/v1/streams/+7",
            "/api/v1/streams/007",
            "/api/v1/streams/-0",
            "/api/v1/streams/%37",
            "/api/v1/streams/4294967296", // u32::MAX + 1
            "/api/v1/recordings/18446744073709551616",
            "/api/v1/streams/x/ledger",
            "/api/v1/recordings/7/",
            "/api/v1/recordings/7/download/",
            "/api/v1/streaming/7",
            "/api/v1/streaming/07/live",
            "/api/v1/streaming/7/mjpeg/",
            "/api/v1/streaming/7/snapshot",
            "/api/v1/streaming/7/hls/",
            "/api/v1/streaming/7/hls/seg_012.m4s",
            "/api/v1/streaming/7/hls/seg_.m4s",
            "/api/v1/streaming/7/hls/part_.m4s",
            "/api/v1/streaming/7/hls/part_1_2.m4s",
            "/api/v1/streaming/7/hls/init_1.m4s",
            "/api/v1/devices/",
            "/api/v1/devices/0",
            "/api/v1/System",
            "/api/v1",
            "/api",
            "/healthz/",
            "/src/../healthz",
            "/index.html/",
        ] {
            check_route(path, Route::NotFound);
        }
    }

    #[test]
    fn the_page_is_found() {
        assert!(matches!(parse_route("/"), Route::Asset(asset) if asset.path == "/"));
    }

    #[test]
    fn allow_names_the_methods() {
        for path in [
            "/",
            "/api/v1/streams",
            "/api/v1/streams/1",
            "/api/v1/streams/test",
            "/api/v1/system/update",
            "/api/v1/recordings/1",
            "/api/v1/settings",
            "/api/v1/backup",
            "/api/v1/password",
            "/api/v1/session",
            "/api/v1/storage/adopt",
            "/healthz",
        ] {
            let route = parse_route(path);
            let named: Vec<Method> = route.allow().split(", ").map(Method::parse).collect();
            assert_eq!(named, route.methods(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_has_an_answer(path in "\\PC{0,60}") {
            let _ = parse_route(&path);
        }

        #[test]
        fn an_id_has_one_text(id in any::<u64>(), text in "[0-9+ -]{1,22}") {
            prop_assert_eq!(parse_id::<u64>(&id.to_string()), Some(id));
            if let Some(parsed) = parse_id::<u64>(&text) {
                prop_assert_eq!(parsed.to_string(), text);
            }
        }
    }
}
