//! The image of a device, booted as an owner boots it: `virt-arm64` under QEMU, in software.

mod rig;

use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime};

use rig::board::{self, Board, Card, Watchdog};
use rig::json::Look;
use rig::mp4;
use rig::nvr::Api;
use rig::temp_dir::TempDir;
use rig::wait;

const CARD_BYTES: u64 = 1 << 30;
/// Of a card of 1 GiB: less 388 MiB for boot partition and slots, and what ext4 needs.
const DATA_MIB_MIN: u64 = 560;
/// Silence of 30 s, the watchdog's 15 s and a loaded machine.
const RESET_WITHIN: Duration = Duration::from_secs(180);
const NEW_PASSWORD: &str = "a better password";
const CARD_PASSWORD: &str = "held the card";
/// What the time server is ahead of everybody else: a board without a clock chip is as far behind.
const AHEAD: Duration = Duration::from_secs(1000 * 86_400);
/// What `keep` looks at once a second.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);
/// Power cuts of one card.
const CUTS: u32 = 3;
/// In `./build.sh soak`.
const CUTS_SOAK: u32 = 20;
const WELL_WITHIN: Duration = Duration::from_secs(60);

/// A small test pattern: the encoder runs in an emulated processor.
fn add_pattern(api: &Api) -> u64 {
    let body = r#"{"name":"Pattern","url":"testpattern://","width":320,"height":240,"fps":5}"#;
    api.json("POST", "/api/v1/streams", Some(body)).field("id").integer()
}

/// The root is read-only, the data partition has grown, and only the promised ports are open: `more_udp` is what the
/// owner has asked for.
fn check_system(device: &Board, more_udp: &[&str]) {
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
    check_ports(device, more_udp);
    let score = device.run(&format!("cat /proc/{}/oom_score_adj", device.recorder()));
    assert_eq!(score, "-900");
    assert!(device.run("cat /proc/swaps").contains("zram0"));
}

/// Every socket that the kernel knows of and that is not bound to loopback alone.
fn check_ports(device: &Board, more_udp: &[&str]) {
    let listening = device.run("netstat -lntu");
    for line in listening.lines().filter(|line| line.starts_with("tcp") || line.starts_with("udp"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words[3].rsplit(':').next().expect("a port");
        let is_promised = match words[0] {
            "tcp" | "tcp6" => port == "80" || port == "8080",
            // mDNS and the DHCP client.
            _ => port == "5353" || port == "68" || more_udp.contains(&port),
        };
        assert!(is_promised, "open: {line}\n{listening}");
    }
    assert!(listening.contains(":8080 "), "{listening}");
}

/// A time server whose clock is `ahead` of ours. Gives its port; it ends with the test's process.
fn time_server(ahead: Duration) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let port = socket.local_addr().expect("it is bound").port();
    let answer = move || {
        let mut packet = [0; 48];
        while let Ok((_, from)) = socket.recv_from(&mut packet) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970")
                + ahead;
            // Version 4, server, stratum 2; the request's time comes back, and ours since 1900 follows twice.
            let ours = (now.as_secs() + 2_208_988_800) << 32;
            let cookie = packet[40..].to_vec();
            packet = [0; 48];
            packet[..2].copy_from_slice(&[0x24, 2]);
            packet[24..32].copy_from_slice(&cookie);
            packet[32..40].copy_from_slice(&ours.to_be_bytes());
            packet[40..].copy_from_slice(&ours.to_be_bytes());
            socket.send_to(&packet, from).expect("it is there");
        }
    };
    drop(std::thread::Builder::new().name("time".into()).spawn(answer).expect("a thread"));
    port
}

fn unix_s(device: &Board) -> u64 {
    device.run("date +%s").parse().expect("seconds")
}

#[test]
fn a_flashed_card_becomes_a_recorder_that_stays_up() {
    let home = TempDir::new("board_first_boot");
    let card = Card::flash(&home.path().join("card.img"), CARD_BYTES);
    let setup = format!("hostname = Garage\r\nntp = 10.0.2.2:{}\r\n", time_server(AHEAD));
    card.write("lightnvr-setup.txt", &setup);
    let mut device = Board::plug_in(home.path(), &card, Watchdog::Present);
    let to_http = device.wait_for_http(device.started);
    let password = device.shown_password();
    assert!(device.qemu.console().contains("http://garage.local:8080/"));
    check_system(&device, &[]);
    let file = device.run("cat /boot/lightnvr-password.txt");
    assert!(file.contains(&password), "{file}");
    let answer = device.port_80("/recordings?x=1");
    let at = answer.header("location").expect("where the page is");
    assert!(answer.status == 308 && at.ends_with(":8080/recordings?x=1"), "{at}");
    let later =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970") + AHEAD;
    wait::until("the time server's time is taken", CHANGED_WITHIN, || {
        (unix_s(&device) + 60 > later.as_secs()).then_some(())
    });

    let mut api = device.api(&password);
    add_pattern(&api);
    board::wait_for_recording(&api, 0, Instant::now());
    let body = format!(r#"{{"current":"{password}","new":"{NEW_PASSWORD}"}}"#);
    api.json("PUT", "/api/v1/password", Some(&body));
    api.use_password(NEW_PASSWORD);
    wait::until("the password's file goes away", CHANGED_WITHIN, || {
        (device.try_run("test -e /boot/lightnvr-password.txt").1 != 0).then_some(())
    });

    let known = board::recorded(&api);
    device.run(&format!("kill -KILL {}", device.recorder()));
    board::wait_for_recording_again(&api, known);
    hang_and_come_back(&mut device, later.as_secs());
    device.power_off();
    let names = card.list();
    assert!(names.contains("boot.scr") && !names.contains("password"), "{names}");
    let setup = card.read("lightnvr-setup.txt");
    assert!(setup.contains("hostname = Garage") && !setup.contains(CARD_PASSWORD), "{setup}");
    println!("boot to HTTP: {:.1} s at the first boot", to_http.as_secs_f64());
}

/// The recorder does not answer, but does not end either: the watchdog restarts the board. Meanwhile the owner, who
/// has forgotten the password, wrote another one to the card.
fn hang_and_come_back(device: &mut Board, later_s: u64) {
    device.run(&format!(
        "mount -o remount,rw /boot && printf 'password = {CARD_PASSWORD}\\r\\ntime_server = yes\\r\\n' >>/boot/lightnvr-setup.txt && mount -o remount,ro /boot"
    ));
    let known = board::recorded(&device.api(NEW_PASSWORD));
    let boots = device.qemu.console().matches("U-Boot 20").count();
    device.run(&format!("kill -STOP {}", device.recorder()));
    let hung = Instant::now();
    wait::until("the watchdog restarts the board", RESET_WITHIN, || {
        (device.qemu.console().matches("U-Boot 20").count() > boots).then_some(())
    });
    let reset = Instant::now();
    println!("hung to reset: {} s", hung.elapsed().as_secs());
    device.wait_for_http(reset);
    let api = device.api(CARD_PASSWORD);
    let to_frame = board::wait_for_recording(&api, known, reset);
    println!("boot to the first recorded frame: {:.1} s", to_frame.as_secs_f64());
    check_system(device, &["123"]);
    // Its clock chip knows nothing of the time server's time.
    assert!(device.qemu.console().contains("clock set to the last known time"));
    assert!(unix_s(device) + 60 > later_s);
    let listening = device.run("netstat -lnu");
    assert!(listening.contains(":123 "), "the time server for cameras: {listening}");
}

#[test]
fn power_cuts_leave_a_card_that_boots_and_recordings_that_play() {
    let home = TempDir::new("board_power_cuts");
    let card = Card::flash(&home.path().join("card.img"), CARD_BYTES);
    let mut device = Board::plug_in(home.path(), &card, Watchdog::Absent);
    device.wait_for_http(device.started);
    let password = device.shown_password();
    add_pattern(&device.api(&password));
    let mut known = 0;
    let cuts = if std::env::var_os("SOAK").is_some() { CUTS_SOAK } else { CUTS };
    for cut in 0..cuts {
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
        println!("cut {}: {known} recordings play", cut + 1);
    }
}

/// All is well, everything that is listed plays, and `lightnvr check` has nothing to say. Gives the number of recordings.
fn check_card(device: &mut Board, password: &str, home: &TempDir) -> usize {
    let api = device.api(password);
    // The swap file, too, is as it was.
    wait::until("all is well", WELL_WITHIN, || {
        (api.request("GET", "/healthz", None).status == 200).then_some(())
    });
    let file = home.path().join("recording.mp4");
    for recording in api.recordings("").iter().filter(|r| !r.in_progress) {
        let path = format!("/api/v1/recordings/{}/download", recording.id);
        let got = api.request("GET", &path, None);
        assert_eq!(got.status, 200, "{path}");
        std::fs::write(&file, &got.body).expect("the test's directory can be written");
        mp4::check_plays_unevenly(&file);
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
