//! `lightnvr init`: what happens once at each start of the device, before anything runs.
//!
//! In here, in this order: the data partition is grown, checked and mounted, the clock is set to the last known time,
//! the owner's set-up file is read, the host gets its name. Each step says on the console what it did. None of them
//! ends the start: whatever is broken, the page must come up to say so.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::mount::{MountFlags, mount};

use super::setup_core::{self, SETUP_BYTES_MAX, Setup};
use super::{DATA_MOUNT, DEVICE_DIR, RECORDER_ID, RUN_DIR, TIME_SERVER_MARK, boot_files, grow};
use crate::args::InitArgs;
use crate::nvr::start;
use crate::system::clock;

const SETUP_FILE: &str = "lightnvr-setup.txt";
const FAULTS_FILE: &str = "lightnvr-setup-errors.txt";
const HOST_NAME_DEFAULT: &str = "lightnvr";
/// What there is instead of a data partition that can't be used: enough for settings.
const NO_DATA_OPTIONS: &str = "size=16m,mode=755";
/// The file that holds the last known time, in Unix milliseconds.
pub const TIME_FILE: &str = "time";

/// Runs all steps. The exit code says whether all went well.
pub fn run(args: &InitArgs) -> ExitCode {
    let is_mounted = prepare_data(&args.disk);
    if let Err(error) = make_dirs(&args.data_dir) {
        say(&format!("{}: {error}", args.data_dir.display()));
    }
    set_clock();
    let setup = match read_setup(&args.data_dir) {
        Ok(setup) => setup,
        Err(error) => {
            say(&format!("{SETUP_FILE}: {error}"));
            Setup::default()
        }
    };
    if let Err(error) = apply(&setup) {
        say(&format!("settings of the device: {error}"));
    }
    if is_mounted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One line on the console, where the owner of a device without a network looks.
pub fn say(line: &str) {
    println!("LightNVR: {line}");
}

/// Grows, checks and mounts the data partition. Answers whether it is there.
fn prepare_data(disk: &Path) -> bool {
    let partition = partition(disk, super::mbr_core::DATA_PARTITION);
    match grow::grow_partition(disk) {
        Ok(Some(bytes)) => say(&format!("data partition grown to {} MiB", bytes >> 20)),
        Ok(None) => {}
        Err(error) => say(&format!("data partition not grown: {error}")),
    }
    // Repairs what can be repaired without loss; 0 and 1 are well.
    match Command::new("/sbin/e2fsck").arg("-p").arg(&partition).output() {
        Ok(out) if out.status.code().is_some_and(|code| code <= 1) => {}
        Ok(out) => {
            say(&format!("data partition: e2fsck: {}", String::from_utf8_lossy(&out.stdout).trim()))
        }
        Err(error) => say(&format!("e2fsck: {error}")),
    }
    let flags = MountFlags::NOATIME | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    if let Err(error) = mount(&partition, DATA_MOUNT, c"ext4", flags, c"errors=remount-ro") {
        say(&format!(
            "the data partition can't be used ({error}): nothing is kept across a restart"
        ));
        if let Err(error) = mount(c"tmpfs", DATA_MOUNT, c"tmpfs", flags, tmpfs_options().as_c_str())
        {
            say(&format!("{DATA_MOUNT}: {error}"));
        }
        return false;
    }
    match grow::grow_file_system(Path::new(DATA_MOUNT), &partition) {
        Ok(Some(bytes)) => say(&format!("data file system grown to {} MiB", bytes >> 20)),
        Ok(None) => {}
        Err(error) => say(&format!("data file system not grown: {error}")),
    }
    true
}

fn tmpfs_options() -> std::ffi::CString {
    std::ffi::CString::new(NO_DATA_OPTIONS).unwrap_or_default()
}

/// `/dev/vda` and 4 are `/dev/vda4`, `/dev/mmcblk0` and 4 are `/dev/mmcblk0p4`.
pub fn partition(disk: &Path, number: usize) -> PathBuf {
    let disk = disk.display().to_string();
    let separator = if disk.ends_with(|c: char| c.is_ascii_digit()) { "p" } else { "" };
    PathBuf::from(format!("{disk}{separator}{number}"))
}

fn make_dirs(data_dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(RUN_DIR)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(DEVICE_DIR)?;
    fs::DirBuilder::new().recursive(true).mode(0o750).create(data_dir)?;
    chown(data_dir, Some(RECORDER_ID), Some(RECORDER_ID))
}

/// Sets the clock to the last known time when it is behind: a board without a clock chip starts in 1970.
fn set_clock() {
    let path = Path::new(DEVICE_DIR).join(TIME_FILE);
    let known: Option<i64> =
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let Some(known_ms) = known.filter(|ms| *ms > clock::wall_ms() && *ms < clock::WALL_MS_MAX)
    else {
        return;
    };
    match clock::set_wall_ms(known_ms) {
        Ok(()) => {
            say(&format!("clock set to the last known time, {}", clock::iso_seconds(known_ms)))
        }
        Err(error) => say(&format!("clock not set: {error}")),
    }
}

/// Reads the set-up file, takes the secrets out of it and uses the password.
fn read_setup(data_dir: &Path) -> io::Result<Setup> {
    let Some(bytes) = boot_files::read(SETUP_FILE, SETUP_BYTES_MAX)? else {
        boot_files::write(FAULTS_FILE, None)?;
        return Ok(Setup::default());
    };
    let read = setup_core::read(&bytes);
    let mut faults = read.faults;
    if let Some(password) = &read.setup.password {
        match start::set_password(data_dir, password) {
            Ok(()) => say(&format!("password of user admin set from {SETUP_FILE}")),
            Err(error) => faults.push(format!("password: {error}")),
        }
        own_files(data_dir)?;
    }
    save_wifi(&read.setup)?;
    for fault in &faults {
        say(&format!("{SETUP_FILE}: {fault}"));
    }
    let list = faults.iter().map(|fault| format!("{fault}\r\n")).collect::<String>();
    boot_files::write(FAULTS_FILE, (!faults.is_empty()).then_some(list.as_bytes()))?;
    // Last: the secrets are kept elsewhere by now.
    if let Some(blanked) = &read.blanked {
        boot_files::write(SETUP_FILE, Some(blanked.as_bytes()))?;
    }
    Ok(read.setup)
}

/// What root made in the recorder's directory is the recorder's.
fn own_files(data_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data_dir)? {
        std::os::unix::fs::lchown(entry?.path(), Some(RECORDER_ID), Some(RECORDER_ID))?;
    }
    Ok(())
}

/// Keeps the network's name and password on the data partition, for root alone.
fn save_wifi(setup: &Setup) -> io::Result<()> {
    let path = wifi_file();
    let known = fs::read_to_string(&path).ok();
    match setup_core::wifi_config(setup, known.as_deref()) {
        Some(config) if Some(&config) != known.as_ref() => write_private(&path, &config),
        _ => Ok(()),
    }
}

fn wifi_file() -> PathBuf {
    Path::new(DEVICE_DIR).join("wpa_supplicant.conf")
}

/// Writes a file that only root reads, beside the old one and into its place.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let beside = path.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// Puts what the scripts and `lightnvr keep` read into RAM.
fn apply(setup: &Setup) -> io::Result<()> {
    let name = setup.hostname.as_deref().unwrap_or(HOST_NAME_DEFAULT);
    rustix::system::sethostname(name.as_bytes())?;
    let run = Path::new(RUN_DIR);
    write_private(&run.join("network"), &setup_core::network_lines(setup))?;
    write_private(&run.join("ntp"), &setup.ntp.join("\n"))?;
    if setup.time_server {
        write_private(&run.join(TIME_SERVER_MARK), "")?;
    }
    if let Some(zone) = &setup.timezone {
        if Path::new("/usr/share/zoneinfo").join(zone).is_file() {
            write_private(&run.join("timezone"), zone)?;
        } else {
            say(&format!("{SETUP_FILE}: timezone: no zone {zone:?} is known"));
        }
    }
    if let Ok(config) = fs::read_to_string(wifi_file()) {
        write_private(&run.join("wpa_supplicant.conf"), &config)?;
    }
    fs::set_permissions(run, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_of_disks_and_cards_have_their_names() {
        assert_eq!(partition(Path::new("/dev/vda"), 4), Path::new("/dev/vda4"));
        assert_eq!(partition(Path::new("/dev/mmcblk0"), 2), Path::new("/dev/mmcblk0p2"));
        assert_eq!(partition(Path::new("/dev/nvme0n1"), 1), Path::new("/dev/nvme0n1p1"));
    }
}
