//! Rules that the compiler does not know: who may use whom, where an outside crate is named, what the
//! pure cores may not touch, and what every file says about itself.

use std::fs;
use std::path::{Path, PathBuf};

/// What a module of the crate may name of the others, by the beginning of the path after `crate::`.
/// A new edge is a decision about the structure: ARCHITECTURE.md draws these.
const EDGES: [(&str, &[&str]); 18] = [
    (
        "api",
        &[
            "VERSION",
            "config",
            "ledger",
            "nvr::command",
            "nvr::snapshot",
            "store",
            "system",
            "update",
        ],
    ),
    // A root process beside the recorder: of the recorder it knows how to set the password, and no more.
    ("appliance", &["VERSION", "args", "nvr::start", "store::SCHEMA", "system", "update"]),
    ("args", &[]),
    ("buffer", &["media", "system"]),
    ("build", &[]),
    ("config", &["media"]),
    ("http", &["api::wire", "nvr::snapshot", "system"]),
    ("ingest", &["config", "media", "system"]),
    ("ledger", &[]),
    ("lib", &[]),
    ("live", &["api::wire", "http::rate_core", "http::viewer", "media", "system"]),
    ("main", &[]),
    ("media", &[]),
    // The owner of all state puts the parts together.
    (
        "nvr",
        &[
            "VERSION", "api", "args", "buffer", "config", "http", "ingest", "ledger", "live",
            "media", "record", "store", "stream", "system", "update",
        ],
    ),
    ("record", &["buffer", "ledger", "media", "nvr::snapshot", "store", "stream", "system"]),
    ("store", &["config", "ledger", "media", "system"]),
    (
        "stream",
        &[
            "buffer",
            "config",
            "ingest",
            "ledger",
            "live::feed",
            "live::sub_feed",
            "media",
            "nvr::snapshot",
            "system",
        ],
    ),
    ("update", &[]),
];
/// `system` stands on nothing.
const EDGES_OF_SYSTEM: (&str, &[&str]) = ("system", &[]);

/// ONE-DOOR: where each outside crate may be named, by the beginning of the file's path below `src/`.
/// `log` and `std` may be named everywhere.
const DOORS: [(&str, &[&str]); 26] = [
    ("argon2", &["http/auth.rs", "http/password.rs"]),
    ("async_io", &["http/", "ingest/", "system/drive.rs"]),
    ("async_signal", &["system/signal.rs"]),
    ("base64", &["api/trial.rs", "http/auth.rs", "ingest/", "live/ws_core.rs", "nvr/start.rs"]),
    (
        "getrandom",
        &[
            "appliance/sntp.rs",
            "http/password.rs",
            "ingest/",
            "nvr/start.rs",
            "record/storage.rs",
            "stream/supervisor.rs",
        ],
    ),
    ("heapless", &["buffer/", "http/", "ingest/", "media/"]),
    ("httparse", &["http/"]),
    ("jiff", &["http/", "system/clock.rs"]),
    ("jpeg_encoder", &["live/picture_codec.rs"]),
    ("lexopt", &["args.rs"]),
    ("log", &[""]),
    ("md5", &["ingest/"]),
    ("mdns_sd", &["appliance/mdns.rs"]),
    ("miniserde", &["api/", "http/reply_core.rs"]),
    ("openh264", &["ingest/encoder.rs", "ingest/testpattern.rs", "live/picture_codec.rs"]),
    ("proptest", &[""]),
    ("redb", &["store/"]),
    // rustls has a module of the same name.
    ("ring", &["ingest/tls.rs", "update/"]),
    ("rustls", &["ingest/tls.rs"]),
    (
        "rustix",
        &[
            "api/",
            "appliance/",
            "buffer/spill.rs",
            "http/",
            "ingest/",
            "nvr/start.rs",
            "record/",
            "system/",
        ],
    ),
    ("sha2", &["http/auth.rs", "ingest/"]),
    ("simplelog", &["system/log.rs"]),
    (
        "smol",
        &[
            "appliance/",
            "buffer/spill.rs",
            "http/",
            "ingest/",
            "live/",
            "nvr/",
            "record/",
            "stream/",
            "system/",
        ],
    ),
    ("tiny_http", &["api/serve.rs"]),
    ("v4l", &["ingest/v4l2_sys.rs"]),
    ("zune_jpeg", &["ingest/jpeg_decoder.rs", "live/picture_codec.rs"]),
];

/// PURE-CORE: none of these in a core. Addresses are values, sockets are not.
const IMPURE: [&str; 14] = [
    "async ",
    ".await",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime",
    "smol::",
    "async_io::",
    "rustix::",
    "log::",
];

/// Longer files say in their module doc why, with the words "600 lines".
const LINES_MAX: usize = 600;
const ARCHITECTURE_LINES_MAX: usize = 200;

/// What the repository holds at its top, besides dot files.
const TOP_LEVEL: [&str; 15] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "board",
    "build.sh",
    "cross.toml",
    "rootfs-overlay",
    "src",
    "target",
    "tests",
    "web",
];

/// One file of the repository.
struct Source {
    /// From the top of the repository.
    path: String,
    text: String,
}

impl Source {
    /// The file's text without comment lines.
    fn code(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The code without the unit tests, which come last in a file.
    fn code_without_tests(&self) -> String {
        let code = self.code();
        code.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
    }

    /// Whether the file as a whole is unit tests.
    fn is_tests(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.ends_with("media_tool.rs")
    }

    /// Path below `src/`, or `None` for a file elsewhere.
    fn below_src(&self) -> Option<&str> {
        self.path.strip_prefix("src/")
    }
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All files below `dir` whose names end so.
fn sources(dir: &str, ends: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&top().join(dir), ends, &mut found);
    found.sort_by(|a: &Source, b: &Source| a.path.cmp(&b.path));
    found
}

fn collect(dir: &Path, ends: &[&str], found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            collect(&path, ends, found);
        } else if ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
            let name = path.strip_prefix(top()).expect("below the top").to_string_lossy();
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            found.push(Source { path: name.into_owned(), text });
        }
    }
}

fn rust() -> Vec<Source> {
    sources("src", &[".rs"])
}

/// Panics with all findings at once.
#[track_caller]
fn check_none(what: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{what}:\n  {}", findings.join("\n  "));
}

/// Where `word` stands in `code` as the first part of a path, followed by what comes after it.
fn after_word<'a>(code: &'a str, word: &str) -> Vec<&'a str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let hits = code.match_indices(word);
    let hits = hits.filter(|(at, _)| !code[..*at].ends_with(is_part));
    hits.map(|(at, _)| &code[at + word.len()..]).collect()
}

#[test]
fn every_file_says_what_it_is() {
    let mut findings = Vec::new();
    for source in rust().iter().chain(&sources("tests", &[".rs"])) {
        // The unit tests of one file say nothing that their names and that file don't.
        if !source.text.starts_with("//! ") && !source.path.ends_with("/tests.rs") {
            findings.push(source.path.clone());
        }
    }
    check_none("no module doc in the first line", &findings);
}

#[test]
fn modules_use_only_what_they_are_allowed_to() {
    let mut findings = Vec::new();
    for source in rust().iter().filter(|source| !source.is_tests()) {
        let path = source.below_src().expect("it is below src");
        let module = path.split(['/', '.']).next().expect("split gives one part at least");
        let mut edges = EDGES.iter().chain([&EDGES_OF_SYSTEM]);
        let Some((_, allowed)) = edges.find(|(name, _)| *name == module) else {
            findings.push(format!("{path}: no row for module {module}"));
            continue;
        };
        for rest in after_word(&source.code_without_tests(), "crate::") {
            let used: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            let is_own = used.split("::").next() == Some(module);
            let is_allowed = |edge: &&str| {
                used.strip_prefix(*edge)
                    .is_some_and(|more| more.is_empty() || more.starts_with("::"))
            };
            if !is_own && !allowed.iter().any(is_allowed) {
                findings.push(format!("{path}: {used}"));
            }
        }
    }
    check_none("uses that are not in the table", &findings);
}

#[test]
fn outside_crates_are_named_behind_one_door() {
    let manifest = read("Cargo.toml");
    let mut findings = Vec::new();
    for name in dependencies(&manifest) {
        if !DOORS.iter().any(|(door, _)| *door == crate_name(&name)) {
            findings.push(format!("Cargo.toml: no row for {name}"));
        }
    }
    for source in rust() {
        let path = source.below_src().expect("it is below src");
        for (name, doors) in DOORS {
            let is_named = !after_word(&source.code(), &format!("{name}::")).is_empty()
                || !after_word(&source.code(), &format!("use {name};")).is_empty();
            if is_named && !doors.iter().any(|door| path.starts_with(door)) {
                findings.push(format!("{path}: {name}"));
            }
        }
    }
    check_none("crates named elsewhere", &findings);
}

/// The packages of all `[…dependencies]` tables.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_dependency = false;
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            is_dependency = table.trim_end_matches(']').ends_with("dependencies");
        } else if is_dependency && let Some((name, _)) = line.split_once(" = ") {
            names.push(name.to_owned());
        }
    }
    names
}

/// What the package is called in code.
fn crate_name(package: &str) -> String {
    if package == "md-5" { "md5".to_owned() } else { package.replace('-', "_") }
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = read("Cargo.toml");
    let names = dependencies(&manifest);
    assert!(names.len() > 10, "the manifest was not understood");
    let is_silent = |name: &&String| {
        let line = manifest.lines().find(|line| line.starts_with(&format!("{name} = ")));
        !line.is_some_and(|line| line.contains(" # "))
    };
    let findings: Vec<String> = names.iter().filter(is_silent).cloned().collect();
    check_none("dependencies without a comment", &findings);
}

#[test]
fn threads_are_started_in_one_file() {
    let mut findings = Vec::new();
    for source in rust().iter().filter(|source| !source.is_tests()) {
        let code = source.code_without_tests();
        for word in ["thread::spawn", "thread::Builder", "thread::scope"] {
            if code.contains(word) && source.path != "src/system/pool.rs" {
                findings.push(format!("{}: {word}", source.path));
            }
        }
    }
    check_none("threads are started in src/system/pool.rs alone", &findings);
}

#[test]
fn pure_cores_know_neither_files_nor_sockets_nor_clocks() {
    let is_core = |path: &str| {
        path.starts_with("media/")
            || path.ends_with("_core.rs")
            || path.ends_with("policy.rs")
            || path.contains("_core/")
            || ["buffer/ring.rs", "api/route.rs"].contains(&path)
    };
    let mut findings = Vec::new();
    let mut cores = 0;
    for source in rust().iter().filter(|source| !source.is_tests()) {
        if !is_core(source.below_src().expect("it is below src")) {
            continue;
        }
        cores += 1;
        let code = source.code_without_tests();
        let words = IMPURE.iter().filter(|word| code.contains(**word));
        findings.extend(words.map(|word| format!("{}: {word}", source.path)));
    }
    assert!(cores > 1, "the cores were not found");
    check_none("not pure", &findings);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together, so that this file does not find itself.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
        concat!("unimplem", "ented!"),
        concat!("#[ig", "nore"),
        concat!("dbg", "!("),
    ];
    let mut findings = Vec::new();
    let code = [".rs", ".js", ".jsx", ".mjs", ".css", ".py", ".sh"];
    let all = ["src", "tests", "web/src"].map(|dir| sources(dir, &code));
    for source in all.iter().flatten() {
        // A process of its own is a test binary that runs one test by name.
        let text = source.text.replace(" = \"started by the other test\"]", "");
        let text = text.replace(concat!("#[ig", "nore\n"), "");
        for word in words.iter().filter(|word| text.contains(**word)) {
            findings.push(format!("{}: {word}", source.path));
        }
    }
    check_none("left for later", &findings);
}

#[test]
fn long_files_say_why() {
    let mut findings = Vec::new();
    for source in rust().iter().chain(&sources("tests", &[".rs"])) {
        let doc = source.text.lines().take_while(|line| line.starts_with("//!"));
        let lines = source.text.lines().count();
        if lines > LINES_MAX && !doc.collect::<String>().contains("600 lines") {
            findings.push(format!("{}: {lines} lines", source.path));
        }
    }
    check_none("over 600 lines without a reason in the module doc", &findings);
}

#[test]
fn the_architecture_is_short_and_names_every_module() {
    let text = read("ARCHITECTURE.md");
    let lines = text.lines().count();
    assert!(lines < ARCHITECTURE_LINES_MAX, "ARCHITECTURE.md has {lines} lines");
    let mut findings = Vec::new();
    for entry in fs::read_dir(top().join("src")).expect("src can be read") {
        let entry = entry.expect("src can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = if entry.path().is_dir() { format!("{name}/") } else { name };
        if !text.contains(&format!("`{name}`")) {
            findings.push(name);
        }
    }
    check_none("not in the codemap of ARCHITECTURE.md", &findings);
    for name in ["ONE-OWNER", "PURE-CORE", "ALL-BOUNDED", "FILE-BEFORE-ROW", "ONE-DOOR"] {
        assert!(text.contains(name), "ARCHITECTURE.md names the invariant {name}");
    }
}

#[test]
fn the_top_level_holds_what_it_may() {
    let mut findings = Vec::new();
    for entry in fs::read_dir(top()).expect("the repository can be read") {
        let name = entry.expect("the repository can be read").file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_ref()) {
            findings.push(name.into_owned());
        }
    }
    check_none("at the top of the repository", &findings);
}

#[test]
fn the_change_log_has_this_version() {
    let log = read("CHANGELOG.md");
    assert!(log.contains(concat!("## ", env!("CARGO_PKG_VERSION"))), "CHANGELOG.md");
}
