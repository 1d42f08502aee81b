//! The image of a device, booted as an owner boots it: `virt-arm64` under QEMU, in software.

mod rig;

use std::process::Command;
use std::time::{Duration, Instant};

use rig::board::{self, Board, Card, Watchdog};
use rig::json::Look;
use rig::mp4;
use rig::nvr::Api;
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;

const CARD_BYTES: u64 = 1 << 30;
/// Of a card of 1 GiB: less 388 MiB for boot partition and slots, and what ext4 needs.
const DATA_MIB_MIN: u64 = 560;
/// Silence of 30 s, the watchdog's 15 s and a loaded machine.
const RESET_WITHIN: Duration = Duration::from_secs(180);
const NEW_PASSWORD: &str = "a better password";
const CUTS: u32 = 3;

/// A small test pattern: the encoder runs in an emulated processor.
fn add_pattern(api: &Api) -> u64 {
    let body = r#"{"name":"Pattern","url":"testpattern://","width":320,"height":240,"fps":5}"#;
    api.json("POST", "/api/v1/streams", Some(body)).field("id").integer()
}

/// The root is read-only, the data partition has grown, and only the promised ports are open.
fn check_system(device: &Board) {
    let mounts = device.run("cat /proc/mounts");
    let mounted = |at: &str| {
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(at));
        line.unwrap_or_else(|| panic!("nothing at {at}: {mounts}"))
    };
    assert!(mounted("/").contains(" squashfs ro"), "{mounts}");
    assert!(mounted("/boot").contains(" vfat ro"), "{mounts}");
    assert!(mounted("/data").contains(" ext4 rw"), "{mounts}");
    let (said, status) = device.try_run("touch /etc/x /usr/bin/lightnvr");
    assert!(status != 0 && said.contains("Read-only file system"), "{said}");
    let df = device.run("df -m /data | tail -n 1");
    let mib: u64 = df.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("df says");
    assert!(mib >= DATA_MIB_MIN, "the data partition has {mib} MiB: {df}");
    check_ports(device);
    let score = device.run(&format!("cat /proc/{}/oom_score_adj", device.recorder()));
    assert_eq!(score, "-900");
    assert!(device.run("cat /proc/swaps").contains("zram0"));
}

/// Every socket that the kernel knows of and that is not bound to loopback alone.
fn check_ports(device: &Board) {
    let listening = device.run("netstat -lntu");
    for line in listening.lines().filter(|line| line.starts_with("tcp") || line.starts_with("udp"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words[3].rsplit(':').next().expect("a port");
        let is_promised = match words[0] {
            "tcp" | "tcp6" => port == "80" || port == "8080",
            // mDNS and the DHCP client.
            _ => port == "5353" || port == "68",
        };
        assert!(is_promised, "open: {line}\n{listening}");
    }
    assert!(listening.contains(":8080 "), "{listening}");
}

/// What the boot partition of a card holds, as another computer would read it.
fn boot_partition(card: &Card) -> String {
    let raw = card.raw();
    let mut list = Command::new("mdir");
    list.args(["-b", "-i"]).arg(format!("{}@@4M", raw.display())).arg("::");
    let names = String::from_utf8(run_silently(&mut list)).expect("names are UTF-8");
    std::fs::remove_file(raw).expect("it was made");
    names
}

#[test]
fn a_flashed_card_becomes_a_recorder_that_stays_up() {
    let home = TempDir::new("board_first_boot");
    let card = Card::flash(&home.path().join("card.qcow2"), CARD_BYTES);
    let mut device = Board::plug_in(home.path(), &card, Watchdog::Present);
    let to_http = device.wait_for_http(device.started);
    let password = device.shown_password();
    check_system(&device);
    let file = device.run("cat /boot/lightnvr-password.txt");
    assert!(file.contains(&password), "{file}");

    let mut api = device.api(&password);
    add_pattern(&api);
    board::wait_for_recording(&api, 0, Instant::now());
    let body = format!(r#"{{"current":"{password}","new":"{NEW_PASSWORD}"}}"#);
    api.json("PUT", "/api/v1/password", Some(&body));
    api.use_password(NEW_PASSWORD);
    wait::until("the password's file goes away", Duration::from_secs(60), || {
        (device.try_run("test -e /boot/lightnvr-password.txt").1 != 0).then_some(())
    });

    let known = board::recorded(&api);
    device.run(&format!("kill -KILL {}", device.recorder()));
    device.wait_for_http(Instant::now());
    board::wait_for_recording(&api, known, Instant::now());

    // Hung: it does not answer, but does not end either.
    let known = board::recorded(&api);
    let boots = device.qemu.console().matches("Starting kernel").count();
    device.run(&format!("kill -STOP {}", device.recorder()));
    let hung = Instant::now();
    wait::until("the watchdog restarts the board", RESET_WITHIN, || {
        (device.qemu.console().matches("U-Boot 20").count() > boots).then_some(())
    });
    let reset = Instant::now();
    println!("hung to reset: {} s", hung.elapsed().as_secs());
    device.wait_for_http(reset);
    let to_frame = board::wait_for_recording(&api, known, reset);
    println!(
        "boot to HTTP: {:.1} s at the first boot; boot to the first recorded frame: {:.1} s",
        to_http.as_secs_f64(),
        to_frame.as_secs_f64()
    );
    check_system(&device);
    device.power_off();
    let names = boot_partition(&card);
    assert!(names.contains("boot.scr") && !names.contains("password"), "{names}");
}

#[test]
fn power_cuts_leave_a_card_that_boots_and_recordings_that_play() {
    let home = TempDir::new("board_power_cuts");
    let card = Card::flash(&home.path().join("card.qcow2"), CARD_BYTES);
    let mut device = Board::plug_in(home.path(), &card, Watchdog::Absent);
    device.wait_for_http(device.started);
    let password = device.shown_password();
    add_pattern(&device.api(&password));
    let mut known = 0;
    for cut in 0..CUTS {
        let api = device.api(&password);
        board::wait_for_recording(&api, known, Instant::now());
        // Some rounds of sync, and a different moment each time.
        wait::pause(Duration::from_millis(3_000 + 700 * u64::from(cut)));
        device.cut_power(home.path());
        wait::pause(Duration::from_millis(2_500));
        device.pull_plug();
        device = Board::plug_in(home.path(), &card, Watchdog::Absent);
        device.wait_for_http(device.started);
        known = check_card(&mut device, &password, &home);
    }
}

/// Everything that is listed plays, and `lightnvr check` has nothing to say. Gives the number of recordings.
fn check_card(device: &mut Board, password: &str, home: &TempDir) -> usize {
    let api = device.api(password);
    let file = home.path().join("recording.mp4");
    for recording in api.recordings("").iter().filter(|r| !r.in_progress) {
        let path = format!("/api/v1/recordings/{}/download", recording.id);
        let got = api.request("GET", &path, None);
        assert_eq!(got.status, 200, "{path}");
        std::fs::write(&file, &got.body).expect("the test's directory can be written");
        mp4::check_plays(&file);
    }
    // Its keeper stands still meanwhile, so that it is not started again.
    let keeper = device
        .run("grep -l '^Uid:.0' $(grep -l '^Name:.lightnvr$' /proc/[0-9]*/status) | cut -d / -f 3");
    let recorder = device.recorder();
    let said = device.run(&format!(
        "kill -STOP {keeper}; kill -TERM {recorder}; while grep -q '^State:.[^Z]' /proc/{recorder}/status 2>/dev/null; do sleep 0.2; done; \
         lightnvr check --data-dir /data/lightnvr; echo \"status $?\"; kill -CONT {keeper}"
    ));
    assert_eq!(said, "status 0");
    device.wait_for_http(Instant::now());
    board::recorded(&api)
}
