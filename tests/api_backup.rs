//! Backup and restore of the program itself: onto a card that knows nothing, and all or nothing.

mod rig;

use rig::json::{Look, quote};
use rig::nvr::Nvr;
use rig::temp_dir::TempDir;

const PATH: &str = "/api/v1/backup";
/// Port 9 of this machine, where nobody listens.
const CAMERA: &str = "rtsp://viewer:secret@127.0.0.1:9/main";

fn add(nvr: &Nvr, name: &str, url: &str) {
    let body = format!(
        r#"{{"name":{},"url":{},"enabled":false,"retention_days":7,"priority":9}}"#,
        quote(name),
        quote(url)
    );
    nvr.json("POST", "/api/v1/streams", Some(&body));
}

fn get(nvr: &Nvr, query: &str) -> String {
    let answer = nvr.request("GET", &format!("{PATH}{query}"), None);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().to_owned()
}

#[track_caller]
fn check_refused(nvr: &Nvr, body: &str, field: &str, part: &str) {
    let before = get(nvr, "?passwords=true");
    let answer = nvr.request("PUT", PATH, Some(body));
    assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    let said = rig::json::parse(answer.text());
    assert_eq!(said.field("field").text(), field, "{}", answer.text());
    assert!(said.field("error").text().contains(part), "{}", answer.text());
    assert!(!answer.text().contains("secret"), "{}", answer.text());
    assert_eq!(get(nvr, "?passwords=true"), before, "nothing has changed");
}

#[test]
fn a_new_card_becomes_as_the_old_one_was() {
    let (old_home, new_home) = (TempDir::new("backup_old"), TempDir::new("backup_new"));
    let storage = new_home.path().join("elsewhere");
    let old = Nvr::start(old_home.path());
    let settings = format!(
        r#"{{"segment_seconds":300,"allowed_hosts":["nvr.example.org"],"retention_days":11,
            "use_swap":false,"storage_path":{}}}"#,
        quote(storage.to_str().expect("text"))
    );
    old.set(&settings);
    add(&old, "Tür", CAMERA);
    add(&old, "Hof", "testpattern://");
    let hidden = get(&old, "");
    assert!(hidden.contains("***") && !hidden.contains("secret"), "{hidden}");
    assert_eq!(get(&old, "?passwords=false"), hidden);
    let whole = get(&old, "?passwords=true");
    assert!(whole.contains(CAMERA), "{whole}");
    for query in ["?passwords=1", "?password=true"] {
        assert_eq!(old.request("GET", &format!("{PATH}{query}"), None).status, 400, "{query}");
    }

    let new = Nvr::start(new_home.path());
    check_refused(&new, &hidden, "streams[0].url", "hidden in this backup");
    new.json("PUT", PATH, Some(&whole));
    assert_eq!(get(&new, "?passwords=true"), whole, "the same to the letter");
    let streams = new.json("GET", "/api/v1/streams", None);
    assert_eq!(streams.field("streams").items().len(), 2);
    assert!(storage.is_dir(), "the storage path was made");

    // It is durable, and what goes without passwords comes back where they are known.
    assert!(new.stop().success());
    let new = Nvr::start(new_home.path());
    assert_eq!(get(&new, "?passwords=true"), whole);
    new.json("PUT", "/api/v1/streams/0", Some(r#"{"priority":1,"retention_days":null}"#));
    add(&new, "mine", "testpattern://");
    new.json("PUT", PATH, Some(&hidden));
    let after = get(&new, "?passwords=true");
    assert!(
        after.starts_with(whole.trim_end_matches("]}")),
        "as it was, and what is beside it stays"
    );
    assert!(after.contains(r#""name":"mine""#), "{after}");
}

#[test]
fn a_backup_with_one_fault_changes_nothing() {
    let home = TempDir::new("backup_faults");
    let nvr = Nvr::start(home.path());
    add(&nvr, "Hof", "testpattern://");
    let put = |settings: &str, streams: &str| {
        format!(r#"{{"version":1,"settings":{{{settings}}},"streams":[{streams}]}}"#)
    };
    let good = r#"{"name":"a","url":"testpattern://","enabled":false}"#;
    let fine = r#""retention_days":5"#;
    check_refused(&nvr, &put(r#""retention_days":-5"#, good), "settings.retention_days", "from 0");
    check_refused(&nvr, &put(fine, &format!("{good},{good}")), "streams[1].name", "unique");
    let bad = r#"{"name":"b","url":"http://secret@x"}"#;
    check_refused(&nvr, &put(fine, &format!("{good},{bad}")), "streams[1].url", "rtsp://");
    let path = r#""storage_path":"/proc/nowhere""#;
    check_refused(&nvr, &put(path, good), "settings.storage_path", "created or written");
    check_refused(&nvr, &put(r#""max_streams":1"#, good), "settings.max_streams", "2 streams");
    check_refused(&nvr, r#"{"streams":[]}"#, "version", "required");
    let large = format!("{{\"version\":1{}}}", " ".repeat(64 << 10));
    assert_eq!(nvr.request("PUT", PATH, Some(&large)).status, 413);
    nvr.json("PUT", PATH, Some(&put(fine, good)));
    assert_eq!(nvr.json("GET", "/api/v1/settings", None).field("retention_days").integer(), 5);
}
