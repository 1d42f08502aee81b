//! Bundles of updates, made by the script that makes an owner's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::http::{self, Response};
use super::nvr::Api;
use super::process::run_silently;

/// Where updates go, and where it is said what becomes of them.
pub const PATH: &str = "/api/v1/system/update";
/// Names of a bundle's parts, in order.
pub const PARTS: [&str; 3] = ["kernel", "initrd", "root"];

/// An Ed25519 key in `dir`.
#[track_caller]
pub fn make_key(dir: &Path) -> PathBuf {
    let key = dir.join("key.pem");
    run_silently(
        Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key),
    );
    key
}

/// The key's public half, as the device has it: 64 hexadecimal digits.
#[track_caller]
pub fn public_key(key: &Path) -> String {
    let mut command = Command::new("openssl");
    let der = run_silently(command.args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(key));
    der[der.len() - 32..].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A bundle of these parts, files in order.
#[track_caller]
pub fn make(key: &Path, board: &str, version: &str, parts: &[PathBuf; 3], out: &Path) -> Vec<u8> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/board/common/bundle.sh");
    run_silently(Command::new(script).arg(key).args([board, version]).args(parts).arg(out));
    fs::read(out).expect("it was made")
}

/// The parts of a bundle as files in `dir`.
#[track_caller]
pub fn take_apart(bundle: &[u8], dir: &Path) -> [PathBuf; 3] {
    let length = u32::from_le_bytes(bundle[8..12].try_into().expect("four bytes")) as usize;
    let header = std::str::from_utf8(&bundle[12..12 + length]).expect("text");
    let mut at = 12 + length + 64;
    PARTS.map(|name| {
        let line = header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let size = line.and_then(|line| line.split(' ').next()?.parse::<usize>().ok());
        let end = at + size.expect("a size");
        let file = dir.join(name);
        fs::write(&file, &bundle[at..end]).expect("the test's directory can be written");
        at = end;
        file
    })
}

/// Sends a bundle; gives the answer.
#[track_caller]
pub fn send(api: &Api, bundle: &[u8]) -> Response {
    let login = api.login();
    let headers = [("Authorization", login.as_str()), ("Content-Type", "application/octet-stream")];
    http::request(api.addr, "POST", PATH, &headers, Some(bundle)).expect("an answer")
}
