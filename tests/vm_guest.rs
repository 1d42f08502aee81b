//! The guest of `tests/vm` itself: if this fails, the other tests that begin with `vm_` say nothing.

#![cfg(target_arch = "x86_64")]

mod rig;

use rig::guest::{Guest, Parts, blank_image};
use rig::temp_dir::TempDir;

#[test]
fn the_guest_has_a_virtual_camera_and_a_disk_that_forgets() {
    let home = TempDir::new("vm_guest");
    let disk = blank_image(&home.path().join("disk.img"), 16 << 20);
    let guest = Guest::boot(home.path(), Parts { memory_mib: 256, disks: &[&disk] });
    assert!(guest.run("lightnvr --version").contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(guest.run("exit 0"), "");
    let camera = guest.add_camera();
    assert!(guest.run("cat /sys/class/video4linux/video0/name").contains("vivid"));
    assert_eq!(guest.run("ls /dev/video*"), camera);
    // A camera that is read and not streamed gives whole pictures, one after the other.
    assert_eq!(guest.run(&format!("head -c 300000 {camera} | wc -c")), "300000");

    let disk = guest.map_disk("vda");
    let write =
        |word: &str| format!("echo {word} | dd of={disk} bs=512 conv=sync,fsync 2>/dev/null");
    let read = format!("echo 3 >/proc/sys/vm/drop_caches; head -n 1 {disk}");
    let before = guest.bytes_written("vda");
    guest.run(&write("kept"));
    assert!(guest.bytes_written("vda") > before);
    guest.cut_power("vda");
    guest.run(&write("lost"));
    assert_eq!(guest.run(&read), "kept");
}
