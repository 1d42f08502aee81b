//! Updates of a device: `virt-arm64` under QEMU, in software. The image is signed with the tests' own key.
//!
//! `./build.sh soak` has also the update that stays, a power cut in each phase of one, and a slot that does not boot.

mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use miniserde::json::Value;
use rig::board::{self, Board, Card, Watchdog, built};
use rig::bundle::{self, PATH};
use rig::json::{self, Look};
use rig::nvr::Api;
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::{http, target_dir, wait};

const CARD_BYTES: u64 = 1 << 30;
const BOARD: &str = "virt-arm64";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Writing, a whole trial (`TRIAL_MAX`), three starts of an emulated board on a loaded machine.
const SETTLED_WITHIN: Duration = Duration::from_secs(1200);
const PHASE_WITHIN: Duration = Duration::from_secs(240);

fn is_soak() -> bool {
    std::env::var_os("SOAK").is_some()
}

fn key() -> PathBuf {
    target_dir().join("image/test-key.pem")
}

fn good_bundle() -> Vec<u8> {
    fs::read(built("lightnvr-virt-arm64.update")).expect("image.sh made it")
}

/// A signed bundle whose recorder ends as soon as it is started.
fn sick_bundle(home: &Path) -> Vec<u8> {
    let parts = bundle::take_apart(&good_bundle(), home);
    let (root, made) = (home.join("unpacked"), home.join("sick.squashfs"));
    let mut unpack = Command::new("unsquashfs");
    unpack.args(["-no-xattrs", "-quiet", "-no-progress", "-d"]).arg(&root).arg(&parts[2]);
    run_silently(&mut unpack);
    let inittab = root.join("etc/inittab");
    let text = fs::read_to_string(&inittab).expect("there is one");
    let sick = text.replace("keep --data-dir /data/lightnvr", "keep --data-dir /proc/nowhere");
    assert_ne!(sick, text);
    fs::write(inittab, sick).expect("it can be written");
    let mut pack = Command::new("mksquashfs");
    pack.arg(&root).arg(&made).args(["-comp", "zstd", "-Xcompression-level", "1"]);
    pack.args(["-all-root", "-no-xattrs", "-no-progress", "-quiet"]);
    run_silently(&mut pack);
    let [kernel, initrd, _] = parts;
    bundle::make(&key(), BOARD, VERSION, &[kernel, initrd, made], &home.join("sick.update"))
}

/// What the device says of updates; `None` while it does not answer.
fn state(api: &Api) -> Option<Value> {
    let login = api.login();
    let answer = http::request(api.addr, "GET", PATH, &[("Authorization", &login)], None).ok()?;
    (answer.status == 200).then(|| json::parse(answer.text()))
}

/// How the last update ended, or where it is.
fn outcome(state: &Value) -> Option<&str> {
    match state.field("last") {
        Value::Null => None,
        last => Some(last.field("outcome").text()),
    }
}

/// Waits until an update has come to this end; gives what is said of it.
#[track_caller]
fn wait_for_outcome(api: &Api, want: &str) -> Value {
    wait::until(&format!("the update is {want}"), SETTLED_WITHIN, || {
        let state = state(api)?;
        let is_idle = state.field("state").text() == "idle";
        (is_idle && outcome(&state) == Some(want)).then_some(state)
    })
}

/// Restarts it in order; gives what the boot loader then said of its choice.
#[track_caller]
fn reboot(device: &mut Board) -> String {
    let choices = |device: &Board| {
        let console = device.qemu.console();
        let lines = console.lines().filter_map(|line| line.strip_prefix("LightNVR: slot "));
        lines.map(|line| format!("slot {}", line.trim())).collect::<Vec<_>>()
    };
    let before = choices(device).len();
    device.run("setsid reboot >/dev/null 2>&1 & true");
    let told = wait::until("the boot loader chooses", PHASE_WITHIN, || {
        choices(device).into_iter().nth(before)
    });
    device.wait_for_http(Instant::now());
    told
}

/// A device whose card was just flashed, as soon as it answers, and the password that it shows.
#[track_caller]
fn first_boot(home: &Path) -> (Card, Board, String) {
    let card = Card::flash(&home.join("card.img"), CARD_BYTES);
    let mut device = Board::plug_in(home, &card, Watchdog::Absent);
    device.wait_for_http(device.started);
    let password = device.shown_password();
    (card, device, password)
}

#[track_caller]
fn add_pattern(api: &Api) {
    let body = r#"{"name":"Pattern","url":"testpattern://","width":320,"height":240,"fps":5}"#;
    api.json("POST", "/api/v1/streams", Some(body));
    board::wait_for_recording(api, 0, Instant::now());
}

#[test]
fn an_update_that_never_becomes_well_is_left_and_a_damaged_one_is_refused() {
    let home = TempDir::new("board_update_sick");
    let sick = sick_bundle(home.path());
    let (_card, mut device, password) = first_boot(home.path());
    let api = device.api(&password);
    let began = Instant::now();
    let mut flipped = sick.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let answer = bundle::send(&api, &flipped);
    assert!(
        answer.status == 422 && answer.text().contains("not what was signed"),
        "{}",
        answer.text()
    );
    let slot_b =
        "dd if=$(cat /run/lightnvr/disk)3 bs=4096 count=1 2>/dev/null | tr -d '\\0' | wc -c";
    assert_eq!(device.run(slot_b), "0", "nothing was written");
    println!("refused after {:.1} s", began.elapsed().as_secs_f64());

    let began = Instant::now();
    let answer = bundle::send(&api, &sick);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let state = wait_for_outcome(&api, "rolled_back");
    println!("rolled back after {:.1} s", began.elapsed().as_secs_f64());
    assert_eq!(state.field("slot").text(), "a");
    let last = state.field("last");
    assert_eq!(last.field("version").text(), VERSION);
    let reason = last.field("reason").text();
    assert!(reason.contains("its recorder ended 3 times"), "{reason}");
    let console = device.qemu.console();
    assert!(console.contains("slot b (active a, trial b, left 2)"), "U-Boot did not try slot B");
    assert!(console.contains("is on trial"), "the trial was not noticed");
    assert_eq!(device.run("cat /run/lightnvr/slot"), "a");
    // Two restarts ago; the log is in RAM, and was kept.
    let log = device.run("cat /run/lightnvr/log.1");
    assert!(log.contains("is to be installed"), "{log}");
    assert_eq!(device.try_run("test -e /data/lightnvr/update/bundle").1, 1, "the bundle is gone");
}

#[test]
fn an_update_that_is_well_stays_and_a_slot_that_does_not_boot_is_left() {
    if !is_soak() {
        return;
    }
    let home = TempDir::new("board_update_good");
    let (_card, mut device, password) = first_boot(home.path());
    let api = device.api(&password);
    add_pattern(&api);
    for slot in ["b", "a"] {
        let answer = bundle::send(&api, &good_bundle());
        assert_eq!(answer.status, 200, "{}", answer.text());
        wait::until("it is confirmed", SETTLED_WITHIN, || {
            let state = state(&api)?;
            (outcome(&state) == Some("confirmed") && state.field("slot").text() == slot)
                .then_some(())
        });
        println!("slot {slot}: confirmed");
        let told = reboot(&mut device);
        assert_eq!(told, format!("slot {slot} (active {slot}, trial -, left 0)"));
    }
    let [kernel, initrd, root] = bundle::take_apart(&good_bundle(), home.path());
    fs::write(&root, vec![0x5a; 4 << 20]).expect("the test's directory can be written");
    let out = home.path().join("dead.update");
    let dead = bundle::make(&key(), BOARD, VERSION, &[kernel, initrd, root], &out);
    assert_eq!(bundle::send(&api, &dead).status, 200);
    let state = wait_for_outcome(&api, "rolled_back");
    let reason = state.field("last").field("reason").text().to_owned();
    assert!(reason.contains("started 3 times"), "{reason}");
}

#[test]
fn the_power_may_go_in_each_phase_of_an_update() {
    if !is_soak() {
        return;
    }
    let home = TempDir::new("board_update_cuts");
    let (card, mut device, password) = first_boot(home.path());
    add_pattern(&device.api(&password));
    for phase in ["receiving", "checking", "writing", "restarting", "trial"] {
        let api = device.api(&password);
        let slot = state(&api).expect("it answers").field("slot").text().to_owned();
        let (sent, addr) = (good_bundle(), api.addr);
        let login = api.login();
        let send = std::thread::Builder::new().spawn(move || {
            let headers =
                [("Authorization", login.as_str()), ("Content-Type", "application/octet-stream")];
            // The answer may be cut off with the rest.
            drop(http::request(addr, "POST", PATH, &headers, Some(&sent)));
        });
        wait::until(&format!("the update is at {phase}"), PHASE_WITHIN, || {
            let now = state(&api)?;
            (now.field("state").text() == phase).then_some(())
        });
        device.cut_power(home.path());
        device.pull_plug();
        send.expect("a thread").join().expect("it ends");
        device = Board::plug_in(home.path(), &card, Watchdog::Absent);
        device.wait_for_http(device.started);
        let api = device.api(&password);
        let settled = wait::until("it comes to rest", SETTLED_WITHIN, || {
            let now = state(&api)?;
            (now.field("state").text() == "idle").then_some(now)
        });
        let now = settled.field("slot").text();
        println!("cut at {phase}: slot {slot} -> {now}, {:?}", settled.field("last"));
        // Cut while it restarts or is on trial, it has time left, and is well.
        let is_tried = matches!(phase, "restarting" | "trial");
        assert_eq!(now != slot, is_tried, "cut at {phase}: slot {slot} -> {now}");
        assert_eq!(device.run("cat /run/lightnvr/slot"), now);
    }
}
