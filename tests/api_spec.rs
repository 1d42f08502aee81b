//! Every example of the API's contract as request and answer, over the private socket: what the contract
//! shows comes to the letter and in its order; further fields follow.

mod api_rig;

use api_rig::{PASSWORD, Rig, row, running};
use lightnvr::nvr::snapshot::{Actual, StreamBuffer, StreamStatus};

const FRONT_DOOR: &str = r#"{"id":0,"name":"Front Door","url":"rtsp://192.168.1.100:554/stream1","enabled":true,"width":1920,"height":1080,"fps":15,"codec":"h264","priority":10,"record":true,"status":"connected""#;
const BACK_YARD: &str = r#"{"id":1,"name":"Back Yard","url":"rtsp://192.168.1.101:554/stream1","enabled":true,"width":1280,"height":720,"fps":10,"codec":"h264","priority":5,"record":true,"status":"connected""#;
const SIDE_GATE: &str = r#"{"name": "Side Gate", "url": "rtsp://192.168.1.102:554/stream1", "enabled": true, "width": 1280, "height": 720, "fps": 10, "codec": "h264", "priority": 5, "record": true}"#;
const RECORDING_1: &str = r#"{"id":1,"stream_id":0,"stream_name":"Front Door","start_time":"2025-03-09T10:00:00Z","end_time":"2025-03-09T10:15:00Z","duration":900,"size":45678912,"format":"mp4","path":"/var/lib/lightnvr/recordings/0/20250309_100000.mp4","protected":false}"#;
const RECORDING_2: &str = r#"{"id":2,"stream_id":0,"stream_name":"Front Door","start_time":"2025-03-09T10:15:00Z","end_time":"2025-03-09T10:30:00Z","duration":900,"size":43567890,"format":"mp4","path":"/var/lib/lightnvr/recordings/0/20250309_101500.mp4","protected":false}"#;
const SETTINGS: &str = r#"{"storage_path":"/var/lib/lightnvr/recordings","max_storage_size":0,"retention_days":30,"auto_delete_oldest":true,"web_port":8080,"web_auth_enabled":true,"max_streams":16,"buffer_size":1024,"use_swap":true,"swap_size":134217728,"hw_accel_enabled":false"#;

/// The two streams of the contract, connected.
fn rig_with_streams() -> Rig {
    let rig = Rig::new();
    for example in [FRONT_DOOR, BACK_YARD] {
        // The example without its status is a body; the id is read-only and ignored.
        let body = format!("{}}}", example.replace(r#","status":"connected""#, ""));
        assert_eq!(rig.ask("POST", "/api/v1/streams", &body).status, 200);
    }
    rig.publish(|s| s.streams.iter_mut().for_each(|view| view.status = StreamStatus::Connected));
    rig
}

fn rig_with_recordings() -> Rig {
    let rig = Rig::new();
    rig.rows.insert(row(1, 45_678_912));
    rig.rows.insert(row(2, 43_567_890));
    rig
}

#[track_caller]
fn check_200(rig: &Rig, method: &str, target: &str, body: &str) -> String {
    let answer = rig.ask(method, target, body);
    assert_eq!(answer.status, 200, "{method} {target}: {}", answer.body);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    answer.body
}

#[track_caller]
fn check_error(rig: &Rig, method: &str, target: &str, body: &str, status: u16, error: &str) {
    let answer = rig.ask(method, target, body);
    assert_eq!((answer.status, answer.body.as_str()), (status, error), "{method} {target}");
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
}

#[test]
fn get_streams() {
    let rig = rig_with_streams();
    let more = r#","status_detail":"","actual":null,"advice":[]}"#;
    let want = format!(r#"{{"streams":[{FRONT_DOOR}{more},{BACK_YARD}{more}]}}"#);
    assert_eq!(check_200(&rig, "GET", "/api/v1/streams", ""), want);
}

#[test]
fn get_one_stream() {
    let rig = rig_with_streams();
    rig.publish(|s| {
        s.streams[0].actual = Some(Actual {
            codec: "h264",
            width: 1920,
            height: 1080,
            fps: 14.987,
            bitrate: 4_000_000,
            keyframe_interval: 2.0,
            audio: Some("pcma"),
            audio_note: Some("as FLAC".into()),
        });
        s.streams[0].advice.push("keyframes every 2 s would do".into());
    });
    let more = r#","status_detail":"","actual":{"codec":"h264","width":1920,"height":1080,"fps":14.99,"bitrate":4000000,"keyframe_interval":2.0,"audio":"pcma","audio_note":"as FLAC"},"advice":["keyframes every 2 s would do"]}"#;
    let want = format!("{FRONT_DOOR}{more}");
    assert_eq!(check_200(&rig, "GET", "/api/v1/streams/0", ""), want);
    check_error(&rig, "GET", "/api/v1/streams/7", "", 404, r#"{"error":"Stream not found"}"#);
}

#[test]
fn post_streams() {
    let rig = rig_with_streams();
    let body = check_200(&rig, "POST", "/api/v1/streams", SIDE_GATE);
    let want = r#"{"id":2,"name":"Side Gate","url":"rtsp://192.168.1.102:554/stream1","enabled":true,"width":1280,"height":720,"fps":10,"codec":"h264","priority":5,"record":true,"status":"connecting","#;
    assert!(body.starts_with(want), "{body}");
    assert_eq!(check_200(&rig, "GET", "/api/v1/streams/2", ""), body);
    let again = r#"{"error":"name: is taken by another stream; names are unique","field":"name"}"#;
    check_error(&rig, "POST", "/api/v1/streams", SIDE_GATE, 400, again);
}

#[test]
fn put_stream() {
    let rig = rig_with_streams();
    check_200(&rig, "POST", "/api/v1/streams", SIDE_GATE);
    let off = SIDE_GATE.replace(r#""enabled": true"#, r#""enabled": false"#);
    let body = check_200(&rig, "PUT", "/api/v1/streams/2", &off);
    let want = r#"{"id":2,"name":"Side Gate","url":"rtsp://192.168.1.102:554/stream1","enabled":false,"width":1280,"height":720,"fps":10,"codec":"h264","priority":5,"record":true,"status":"disabled","#;
    assert!(body.starts_with(want), "{body}");
    check_error(&rig, "PUT", "/api/v1/streams/7", &off, 404, r#"{"error":"Stream not found"}"#);
}

#[test]
fn delete_stream() {
    let rig = rig_with_streams();
    assert_eq!(check_200(&rig, "DELETE", "/api/v1/streams/1", ""), r#"{"success":true}"#);
    check_error(&rig, "DELETE", "/api/v1/streams/1", "", 404, r#"{"error":"Stream not found"}"#);
}

#[test]
fn what_get_gave_can_be_put_back_and_the_password_stays() {
    let rig = Rig::new();
    let body = r#"{"name":"a","url":"rtsp://admin:p@ss@cam/1"}"#;
    let got = check_200(&rig, "POST", "/api/v1/streams", body);
    assert!(got.contains(r#""url":"rtsp://admin:***@cam/1""#), "{got}");
    assert_eq!(check_200(&rig, "PUT", "/api/v1/streams/0", &got), got);
    assert_eq!(rig.snapshot.load().streams[0].config.url, "rtsp://admin:p@ss@cam/1");
    let moved = got.replace("@cam/", "@evil/");
    let answer = rig.ask("PUT", "/api/v1/streams/0", &moved);
    assert_eq!(answer.status, 400);
    assert!(answer.body.starts_with(r#"{"error":"url: the password ***"#), "{}", answer.body);
    let settings = check_200(&rig, "GET", "/api/v1/settings", "");
    assert_eq!(check_200(&rig, "PUT", "/api/v1/settings", &settings), settings);
}

#[test]
fn get_recordings() {
    let rig = rig_with_recordings();
    let want = format!(r#"{{"recordings":[{RECORDING_1},{RECORDING_2}]}}"#);
    assert_eq!(check_200(&rig, "GET", "/api/v1/recordings", ""), want);
}

#[test]
fn get_and_delete_one_recording() {
    let rig = rig_with_recordings();
    assert_eq!(check_200(&rig, "GET", "/api/v1/recordings/1", ""), RECORDING_1);
    assert_eq!(check_200(&rig, "DELETE", "/api/v1/recordings/1", ""), r#"{"success":true}"#);
    let gone = r#"{"error":"Recording not found"}"#;
    check_error(&rig, "GET", "/api/v1/recordings/1", "", 404, gone);
    check_error(&rig, "DELETE", "/api/v1/recordings/1", "", 404, gone);
}

#[test]
fn a_running_recording_is_listed_and_can_not_be_deleted() {
    let rig = rig_with_recordings();
    rig.publish(|s| s.running = vec![running(2), running(3)]);
    let list = check_200(&rig, "GET", "/api/v1/recordings", "");
    assert!(list.starts_with(&format!(r#"{{"recordings":[{RECORDING_1},{{"id":2,"#)), "{list}");
    assert!(list.contains(r#""duration":2,"size":1000,"#), "{list}");
    assert!(
        list.ends_with(r#"20250309_103000.mp4","protected":false,"in_progress":true}]}"#),
        "{list}"
    );
    assert_eq!(rig.ask("DELETE", "/api/v1/recordings/2", "").status, 400);
    let system = check_200(&rig, "GET", "/api/v1/system", "");
    assert!(system.contains(r#","recordings_total":3,"#), "{system}");
}

#[test]
fn a_long_list_comes_in_pieces_that_make_one_document() {
    let rig = Rig::new();
    rig.rows.insert_all((1..=600).map(|id| row(id, id)));
    let first = rig.ask("GET", "/api/v1/recordings", "");
    assert_eq!(first.body.matches("\"id\":").count(), 256);
    assert_eq!(first.header("lightnvr-next"), Some("/api/v1/recordings?continue=256"));
    let whole = rig.whole_list("/api/v1/recordings");
    assert_eq!(whole.matches("\"id\":").count(), 600);
    assert!(whole.ends_with("false}]}") && !whole.contains("}{") && !whole.contains(",,"));
    let newest = rig.whole_list("/api/v1/recordings?order=desc&limit=300");
    assert_eq!(newest.matches("\"id\":").count(), 300);
    assert!(newest.starts_with(r#"{"recordings":[{"id":600,"#));
    assert_eq!(rig.ask("GET", "/api/v1/recordings?continue=256", "").status, 400);
}

#[test]
fn get_system() {
    let rig = rig_with_streams();
    rig.rows.insert(row(1, 1));
    let body = check_200(&rig, "GET", "/api/v1/system", "");
    let version = env!("CARGO_PKG_VERSION");
    assert!(body.starts_with(&format!(r#"{{"version":"{version}","uptime":"#)), "{body}");
    let want = r#","cpu_usage":15.2,"memory_usage":45.7,"storage_usage":78.3,"storage_total":1000000000,"storage_used":783000000,"storage_free":217000000,"streams_active":2,"streams_total":2,"recordings_total":1,"buffers":[],"forecast":[],"bytes_written":783000,"bytes_written_per_day":null}"#;
    assert!(body.ends_with(want), "{body}");
}

#[test]
fn get_system_shows_what_waits_of_the_streams_that_run() {
    let rig = rig_with_streams();
    rig.publish(|snapshot| {
        snapshot.streams[1].buffer = Some(StreamBuffer {
            ram_bytes: 900_000,
            spilled_bytes: 5_000_000,
            own_free: 100_000,
            held_ms: 11_449,
            headroom_ms: Some(290_000),
            protection: "swap",
            dropped: 20,
        });
    });
    let body = check_200(&rig, "GET", "/api/v1/system", "");
    let want = r#","buffers":[{"stream_id":1,"ram_bytes":900000,"spilled_bytes":5000000,"seconds_held":11.4,"seconds_headroom":290.0,"protection":"swap","packets_dropped":20}],"forecast":[],"bytes_written":783000,"bytes_written_per_day":null}"#;
    assert!(body.ends_with(want), "{body}");
    rig.publish(|snapshot| {
        snapshot.streams[1].buffer.as_mut().expect("just set").headroom_ms = None;
    });
    let body = check_200(&rig, "GET", "/api/v1/system", "");
    assert!(body.contains(r#""seconds_headroom":null"#), "{body}");
}

#[test]
fn get_and_put_settings() {
    let rig = Rig::new();
    let more = r#","segment_seconds":900,"hls_window_seconds":18,"max_viewers":32,"allowed_hosts":[],"swap_path":"/var/lib/lightnvr/lightnvr.swap"}"#;
    let want = format!("{SETTINGS}{more}");
    assert_eq!(check_200(&rig, "GET", "/api/v1/settings", ""), want);
    let body = r#"{"retention_days": 15, "auto_delete_oldest": true, "buffer_size": 2048}"#;
    let changed = want.replace(r#"days":30"#, r#"days":15"#).replace(":1024", ":2048");
    assert_eq!(check_200(&rig, "PUT", "/api/v1/settings", body), changed);
    assert_eq!(check_200(&rig, "PUT", "/api/v1/settings", "{}"), changed);
}

#[test]
fn the_curl_example_that_adds_a_stream() {
    let rig = Rig::new();
    let body = r#"{"name":"New Camera","url":"rtsp://192.168.1.103:554/stream1","enabled":true,"width":1280,"height":720,"fps":10,"codec":"h264","priority":5,"record":true}"#;
    let got = check_200(&rig, "POST", "/api/v1/streams", body);
    assert!(got.starts_with(r#"{"id":0,"name":"New Camera","#), "{got}");
}

#[test]
fn put_password() {
    let rig = Rig::new();
    let body = |current: &str| format!(r#"{{"current":"{current}","new":"at least ten"}}"#);
    let wrong = rig.ask("PUT", "/api/v1/password", &body("wrong"));
    let want = r#"{"error":"current: is not the present password","field":"current"}"#;
    assert_eq!((wrong.status, wrong.body.as_str()), (400, want));
    assert_eq!(wrong.header("lightnvr-wrong-password"), Some("1"));
    let done = check_200(&rig, "PUT", "/api/v1/password", &body(PASSWORD));
    assert_eq!(done, r#"{"success":true}"#);
    assert_eq!(rig.ask("PUT", "/api/v1/password", &body("at least ten")).status, 200);
}

#[test]
fn a_download_is_told_to_the_gate_in_headers() {
    let rig = rig_with_recordings();
    let answer = rig.ask("GET", "/api/v1/recordings/1/download", "");
    assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("0")));
    assert_eq!(answer.header("Content-Type"), Some("video/mp4"));
    let name = "attachment; filename=\"Front Door 2025-03-09 10-00-00.mp4\"";
    assert_eq!(answer.header("Content-Disposition"), Some(name));
    let path = "/var/lib/lightnvr/recordings/0/20250309_100000.mp4";
    assert_eq!(answer.header("lightnvr-file"), Some(path));
    assert_eq!(answer.header("lightnvr-file-size"), Some("45678912"));
    assert_eq!(answer.header("lightnvr-modified"), Some("1741515300"));
    let finished = answer.header("lightnvr-etag").expect("an etag").to_owned();
    rig.publish(|s| s.running = vec![running(1)]);
    let answer = rig.ask("GET", "/api/v1/recordings/1/download", "");
    assert_eq!(answer.header("lightnvr-file-size"), Some("1000"));
    assert_ne!(answer.header("lightnvr-etag"), Some(finished.as_str()));
    assert_eq!(rig.ask("GET", "/api/v1/recordings/9/download", "").status, 404);
}
