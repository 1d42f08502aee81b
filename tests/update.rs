//! `/api/v1/system/update`: a bundle comes in and goes to the keeper, or is refused with the reason. The keeper is this
//! test; what the real one does with a bundle is in `board_update.rs`.

mod rig;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rig::bundle::{self, PATH};
use rig::json::Look;
use rig::nvr::{Nvr, PASSWORD, usual_command};
use rig::temp_dir::TempDir;
use rig::{http, wait};

const BOARD: &str = "test-board";
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// A device whose keeper is the test.
struct Device {
    nvr: Nvr,
    socket: UnixDatagram,
    dir: PathBuf,
    key: PathBuf,
    home: PathBuf,
}

impl Device {
    fn start(home: &Path) -> Self {
        let dir = home.join("told");
        fs::create_dir(&dir).expect("the test's directory can be written");
        let key = bundle::make_key(home);
        let public = bundle::public_key(&key);
        fs::write(dir.join("device"), format!("board={BOARD}\nkey={public}\n")).expect("a file");
        let name = home.join("notify");
        let socket = UnixDatagram::bind(&name).expect("a socket");
        socket.set_read_timeout(Some(TOLD_WITHIN)).expect("a timeout can be set");
        let mut command = usual_command(home);
        command.arg("--update-dir").arg(&dir).env("NOTIFY_SOCKET", name);
        let device =
            Self { nvr: Nvr::run(&mut command, PASSWORD), socket, dir, key, home: home.to_owned() };
        device.say("idle");
        device
    }

    fn say(&self, phase: &str) {
        let beside = self.dir.join("new");
        fs::write(&beside, format!("slot=a\nphase={phase}\npercent=7\n")).expect("a file");
        fs::rename(beside, self.dir.join("status")).expect("it can be renamed");
    }

    /// A bundle of 3 MB for `board`.
    fn bundle(&self, board: &str, version: &str) -> Vec<u8> {
        let parts = bundle::PARTS.map(|name| {
            let file = self.home.join(name);
            let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| (n * 7 % 251) as u8).collect();
            fs::write(&file, bytes).expect("the test's directory can be written");
            file
        });
        bundle::make(&self.key, board, version, &parts, &self.home.join("made.update"))
    }

    /// Names in the directory where bundles are left.
    fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.home.join("data/update")) else { return Vec::new() };
        entries.map(|entry| entry.expect("a name").file_name().to_string_lossy().into()).collect()
    }

    #[track_caller]
    fn check_refused(&self, bundle: &[u8], part: &str) {
        let answer = bundle::send(&self.nvr, bundle);
        assert!(answer.status == 422 && answer.text().contains(part), "{}", answer.text());
        assert!(self.left().is_empty(), "{:?}", self.left());
        let state = self.nvr.json("GET", PATH, None);
        assert_eq!(state.field("state").text(), "idle");
        let last = state.field("last");
        assert_eq!(last.field("outcome").text(), "refused");
        assert!(last.field("reason").text().contains(part), "{last:?}");
    }

    /// The next word to the keeper that is not the recorder's pulse.
    fn next_word(&self) -> String {
        wait::until("a word to the keeper", TOLD_WITHIN, || {
            let mut buffer = [0; 256];
            let got = self.socket.recv(&mut buffer).expect("the recorder speaks");
            let word = String::from_utf8_lossy(&buffer[..got]).into_owned();
            (!word.contains("WATCHDOG")).then_some(word)
        })
    }
}

#[test]
fn an_installation_that_is_no_device_says_how_it_is_updated() {
    let home = TempDir::new("update_no_device");
    let nvr = Nvr::start(home.path());
    let state = nvr.json("GET", PATH, None);
    assert!(!state.field("supported").truth());
    let answer = bundle::send(&nvr, b"LNVRUPD1");
    assert!(
        answer.status == 501 && answer.text().contains("image for a card"),
        "{}",
        answer.text()
    );
    let answer = nvr.request("POST", PATH, None);
    assert_eq!(answer.status, 501);
}

#[test]
fn a_good_bundle_is_left_for_the_keeper_and_others_are_refused_with_the_reason() {
    let home = TempDir::new("update_bundles");
    let device = Device::start(home.path());
    let good = device.bundle(BOARD, "99.0.0");
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    device.check_refused(&flipped, "its root is not what was signed");
    let mut flipped = good.clone();
    flipped[300] ^= 0x10;
    device.check_refused(&flipped, "its signature does not fit");
    device.check_refused(&device.bundle("another-board", "99.0.0"), "for the board another-board");
    device.check_refused(&device.bundle(BOARD, "0.0.1"), "version 0.0.1, older than the present");
    device.check_refused(&good[..good.len() - 5], "it is not whole");
    device.check_refused(b"no bundle", "no LightNVR update");

    let answer = bundle::send(&device.nvr, &good);
    assert_eq!((answer.status, answer.text()), (200, r#"{"success":true,"version":"99.0.0"}"#));
    assert_eq!(device.next_word(), "X_UPDATE=1");
    let left = fs::read(home.path().join("data/update/bundle")).expect("it is there");
    assert!(left == good, "it is not what was sent");
    device.say("writing");
    let state = device.nvr.json("GET", PATH, None);
    assert_eq!((state.field("state").text(), state.field("percent").integer()), ("writing", 7));
    let answer = bundle::send(&device.nvr, &good);
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some() && answer.text().contains("being installed"));
}

#[test]
fn an_upload_that_breaks_the_rules_or_ends_early_leaves_nothing() {
    let home = TempDir::new("update_rules");
    let device = Device::start(home.path());
    let good = device.bundle(BOARD, "99.0.0");
    let send = |fields: &[(&str, &str)], body: Option<&[u8]>| {
        http::request(device.nvr.addr, "POST", PATH, fields, body).expect("an answer").status
    };
    let login = device.nvr.login();
    let login = ("Authorization", login.as_str());
    let bytes = ("Content-Type", "application/octet-stream");
    assert_eq!(send(&[bytes], Some(&good[..1000])), 401);
    assert_eq!(send(&[login, ("Content-Type", "application/json")], Some(b"{}")), 415);
    assert_eq!(send(&[login, bytes], None), 411);
    assert_eq!(send(&[login, bytes, ("Content-Length", "268435457")], None), 413);
    assert_eq!(send(&[login, bytes, ("Origin", "http://elsewhere")], Some(&good[..1000])), 403);

    let mut half = TcpStream::connect(device.nvr.addr).expect("it listens");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\n{}: {}\r\n{}: {}\r\nContent-Length: {}\r\n\r\n",
        login.0,
        login.1,
        bytes.0,
        bytes.1,
        good.len()
    );
    half.write_all(&[head.as_bytes(), &good[..good.len() / 2]].concat()).expect("it is read");
    wait::until("half of it is there", TOLD_WITHIN, || {
        let state = device.nvr.json("GET", PATH, None);
        (state.field("percent").integer() >= 30 && device.left() == ["bundle.part"]).then_some(())
    });
    let other = bundle::send(&device.nvr, &good[..1000]);
    assert!(other.status == 503 && other.text().contains("one at a time"), "{}", other.text());
    drop(half);
    wait::until("nothing is left", TOLD_WITHIN, || device.left().is_empty().then_some(()));
    assert_eq!(bundle::send(&device.nvr, &good).status, 200);
}
