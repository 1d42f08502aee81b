#!/bin/sh
# Raspberry Pi: firmware, device trees and U-Boot onto the boot partition; Wi-Fi firmware into the root.
set -eu
firmware=$PACKAGES_DIR/usr/lib/raspi-firmware
for file in bootcode.bin start.elf fixup.dat start4.elf fixup4.dat; do
	cp "$firmware/$file" "$BOOT_DIR/$file"
done
trees=$PACKAGES_DIR/usr/lib/modules/$KERNEL/dtb/broadcom
for tree in "$trees"/bcm2837-rpi-*.dtb "$trees"/bcm2711-rpi-*.dtb "$trees"/bcm2712*-rpi-*.dtb; do
	cp "$tree" "$BOOT_DIR/"
done
# The firmware asks for names of the vendor's kernel; the mainline trees have others.
cp "$trees/bcm2837-rpi-3-b.dtb" "$BOOT_DIR/bcm2710-rpi-3-b.dtb"
cp "$trees/bcm2837-rpi-3-b-plus.dtb" "$BOOT_DIR/bcm2710-rpi-3-b-plus.dtb"
cp "$trees/bcm2837-rpi-cm3-io3.dtb" "$BOOT_DIR/bcm2710-rpi-cm3.dtb"
cp "$trees/bcm2837-rpi-zero-2-w.dtb" "$BOOT_DIR/bcm2710-rpi-zero-2-w.dtb"
cp "$PACKAGES_DIR/usr/lib/u-boot/rpi_arm64/u-boot.bin" "$BOOT_DIR/u-boot.bin"
cp "$BOARD/config.txt" "$BOOT_DIR/config.txt"
cp "$BOARD/cmdline.txt" "$BOOT_DIR/cmdline.txt"

# Chips 43430 (3, Zero 2 W), 43436 (later Zero 2 W) and 43455 (3+, 4, 5): program, regulatory blob and settings.
wifi=$PACKAGES_DIR/usr/lib/firmware
mkdir -p "$ROOT_DIR/lib/firmware/brcm" "$ROOT_DIR/lib/firmware/cypress"
for chip in 43430 43436 43455; do
	for dir in brcm cypress; do
		for file in "$wifi/$dir/"*"$chip"*-sdio.bin "$wifi/$dir/"*"$chip"*-sdio.clm_blob "$wifi/$dir/"*"$chip"*-sdio.raspberrypi,*; do
			[ ! -e "$file" ] || cp -L "$file" "$ROOT_DIR/lib/firmware/$dir/"
		done
	done
done
