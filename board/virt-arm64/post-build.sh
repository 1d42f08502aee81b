#!/bin/sh
# QEMU's virt machine: U-Boot is the machine's firmware, beside the image. A shell for tests is on the virtio
# console, which only an emulator can have; no other board has one.
set -eu
cp "$PACKAGES_DIR/usr/lib/u-boot/qemu_arm64/u-boot.bin" "$OUT/u-boot.bin"
printf 'hvc0::respawn:-/bin/sh\n' >>"$ROOT_DIR/etc/inittab"
