//! `./build.sh cross`: which way is taken on a machine that has this or that. The tools are stubs. `./build.sh image`:
//! the same bytes from the same inputs (in the soak).

mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use rig::temp_dir::TempDir;

/// A command in `dir` that runs this script.
fn stub(dir: &Path, name: &str, script: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n"))
        .expect("the test's directory can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Runs the script on a machine that has `docker` as said, `cross`, and a Rust without foreign targets that no
/// package of Debian fits.
fn cross(home: &TempDir, docker: &str) -> Output {
    let dir = home.path();
    stub(dir, "docker", docker);
    stub(
        dir,
        "cross",
        "echo \"CROSS_CONFIG=$CROSS_CONFIG $*\" >>\"$CALLS\"; out=$CARGO_TARGET_DIR/aarch64-unknown-linux-musl/release; \
         mkdir -p \"$out\"; echo program >\"$out/lightnvr\"",
    );
    stub(
        dir,
        "rustc",
        &format!("case $1 in --version) echo 'rustc 9.9.9';; *) echo {};; esac", dir.display()),
    );
    stub(dir, "dpkg", "echo stub");
    stub(dir, "apt-get", "[ \"$1\" != indextargets ] || echo http://mirror.example/debian/");
    stub(dir, "apt-cache", "exit 0");
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").expect("there is one"));
    let mut command = Command::new("board/common/cross.sh");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("aarch64").env("PATH", path);
    command.env("CALLS", dir.join("calls")).env("LIGHTNVR_CROSS_DIR", dir.join("built"));
    command.env("LIGHTNVR_APT_DIR", dir.join("apt")).output().expect("the script starts")
}

#[test]
fn cross_is_called_where_docker_answers() {
    let home = TempDir::new("board_build_cross");
    let out = cross(&home, "[ \"$1\" = info ]");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let calls = fs::read_to_string(home.path().join("calls")).expect("cross was called");
    let want = "CROSS_CONFIG=cross.toml build --release --locked --bin lightnvr --target aarch64-unknown-linux-musl\n";
    assert_eq!(calls, want);
    let built = home.path().join("built/aarch64-unknown-linux-musl/release/lightnvr");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim_end(), built.display().to_string());
}

#[test]
fn a_docker_client_without_a_daemon_is_not_enough() {
    let home = TempDir::new("board_build_no_daemon");
    let out = cross(&home, "exit 1");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && out.stdout.is_empty(), "{said}");
    assert!(!home.path().join("calls").exists(), "cross was called");
    for way in ["rustup target add aarch64-unknown-linux-musl", "docker info", "rust-src"] {
        assert!(said.contains(way), "it does not name {way}: {said}");
    }
}

/// Builds the image of `virt-arm64` below `dir`; gives the sums of what a device gets.
fn image_sums(dir: &Path, zone: &str, umask: &str) -> String {
    let script = format!(
        "umask {umask}; program=$(board/common/cross.sh aarch64) && board/common/image.sh --board virt-arm64 \
         --program \"$program\" --sign target/image/test-key.pem >&2 && cd {}/virt-arm64 && sha256sum ./*",
        dir.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("TZ", zone).env("LIGHTNVR_IMAGE_DIR", dir);
    let out = command.output().expect("sh starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn the_same_inputs_give_the_same_image() {
    if std::env::var_os("SOAK").is_none() {
        return;
    }
    let home = TempDir::new("board_build_same");
    let first = image_sums(&home.path().join("first"), "UTC", "022");
    let again = image_sums(&home.path().join("again"), "Asia/Tokyo", "077");
    println!("{first}");
    assert_eq!(first, again);
    for name in ["lightnvr-virt-arm64.img.xz", "lightnvr-virt-arm64.update"] {
        assert!(first.contains(name), "{first}");
    }
}
