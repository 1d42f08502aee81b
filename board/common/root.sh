# shellcheck shell=sh disable=SC2034,SC2154,SC2153 # variables come from, and go to, the script that sources this
# The parts of an image: root file system, initramfs, boot partition. Sourced by image.sh.

# busybox and a link for each of its commands into the tree $1.
install_busybox() {
	mkdir -p "$1/bin" "$1/sbin" "$1/usr/bin" "$1/usr/sbin"
	cp "$PACKAGES_DIR/usr/bin/busybox" "$1/bin/busybox"
	sed 's/#.*//' "$COMMON/busybox.list" | tr -s ' \t\n' '\n' | while read -r path; do
		[ -z "$path" ] || ln -sf /bin/busybox "$1$path"
	done
}

make_root() {
	mkdir -p "$ROOT_DIR/boot" "$ROOT_DIR/data" "$ROOT_DIR/dev" "$ROOT_DIR/etc" "$ROOT_DIR/lib/firmware" \
		"$ROOT_DIR/mnt" "$ROOT_DIR/proc" "$ROOT_DIR/run" "$ROOT_DIR/sys" "$ROOT_DIR/tmp" "$ROOT_DIR/usr/share" "$ROOT_DIR/var"
	chmod 1777 "$ROOT_DIR/tmp"
	ln -s /run "$ROOT_DIR/var/run"
	install_busybox "$ROOT_DIR"
	cp "$program" "$ROOT_DIR/usr/bin/lightnvr"
	cp "$PACKAGES_DIR/usr/sbin/e2fsck.static" "$ROOT_DIR/sbin/e2fsck"
	cp -a "$PACKAGES_DIR/usr/share/zoneinfo" "$ROOT_DIR/usr/share/zoneinfo"
	rm -rf "$ROOT_DIR/usr/share/zoneinfo/right" "$ROOT_DIR/usr/share/zoneinfo/posix"
	install_wifi
	only='' install_modules "$ROOT_DIR"
	# As it is: modes and names are the device's.
	cp -a "$TOP/rootfs-overlay/." "$ROOT_DIR/"
	printf '%s\n' "$VERSION" >"$ROOT_DIR/etc/lightnvr-version"
	printf '%s\n' "$(basename "$BOARD")" >"$ROOT_DIR/etc/lightnvr-board"
	# The public half: 32 bytes at the end of its DER form (RFC 8410 section 4).
	if [ -n "$sign" ]; then
		openssl pkey -in "$sign" -pubout -outform DER | tail -c 32 | od -An -v -tx1 | tr -d ' \n' >"$ROOT_DIR/etc/lightnvr-update-key"
	fi
}

# wpa_supplicant with its libraries, and the rules of each country.
install_wifi() {
	mkdir -p "$ROOT_DIR/usr/lib/aarch64-linux-gnu"
	cp "$PACKAGES_DIR/usr/sbin/wpa_supplicant" "$ROOT_DIR/usr/sbin/wpa_supplicant"
	loader=ld-linux-aarch64.so.1
	cp -L "$PACKAGES_DIR/usr/lib/aarch64-linux-gnu/$loader" "$ROOT_DIR/lib/$loader"
	# What it is linked with, and what those are linked with. ldd would have to run them.
	todo=$ROOT_DIR/usr/sbin/wpa_supplicant
	while [ -n "$todo" ]; do
		next=
		# shellcheck disable=SC2086 # paths without blanks
		for name in $(LC_ALL=C readelf -d $todo | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u); do
			file=$ROOT_DIR/usr/lib/aarch64-linux-gnu/$name
			[ "$name" = "$loader" ] || [ -e "$file" ] && continue
			cp -L "$PACKAGES_DIR/usr/lib/aarch64-linux-gnu/$name" "$file" || die "wpa_supplicant needs $name: board/common/packages.list"
			next="$next $file"
		done
		todo=$next
	done
	cp "$PACKAGES_DIR/usr/lib/firmware/regulatory.db-debian" "$ROOT_DIR/lib/firmware/regulatory.db"
	cp "$PACKAGES_DIR/usr/lib/firmware/regulatory.db.p7s-debian" "$ROOT_DIR/lib/firmware/regulatory.db.p7s"
}

# The initramfs finds the slot's squashfs and hands over to it; it is on the boot partition, per slot.
make_initrd() {
	mkdir -p "$WORK/initrd/dev" "$WORK/initrd/proc" "$WORK/initrd/sys" "$WORK/initrd/run" "$WORK/initrd/root"
	install_busybox "$WORK/initrd"
	only=boot install_modules "$WORK/initrd"
	only=boot listed_modules >"$WORK/initrd/modules"
	printf '%s\n' "$DISK_ID" >"$WORK/initrd/disk-id"
	cp "$COMMON/initramfs-init" "$WORK/initrd/init"
	chmod 755 "$WORK/initrd/init"
	find "$WORK/initrd" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	mkdir -p "$BOOT_DIR/a" "$BOOT_DIR/b"
	(cd "$WORK/initrd" && find . | sort | cpio --quiet -o -H newc --owner=0:0 --reproducible) |
		zstd -q -19 -T1 -o "$BOOT_DIR/a/initrd.zst"
}

# Kernel and boot script. Slot B is empty until the first update.
make_boot() {
	gzip -9n <"$PACKAGES_DIR/usr/lib/modules/$KERNEL/vmlinuz" >"$BOOT_DIR/a/kernel.gz"
	cat "$BOARD/boot.cmd" "$COMMON/boot.cmd" >"$WORK/boot.cmd"
	mkimage -A arm64 -T script -C none -n "LightNVR boot" -d "$WORK/boot.cmd" "$BOOT_DIR/boot.scr" >"$WORK/mkimage.log"
	cp "$COMMON/lightnvr-setup.example.txt" "$BOOT_DIR/lightnvr-setup.example.txt"
}

# The boot directory as a FAT file system of $2 MiB in the file $1.
make_fat() {
	rm -f "$1"
	truncate -s "$2M" "$1"
	mkfs.vfat -F 32 -n LIGHTNVR -i 4c4e5652 --invariant "$1" >"$WORK/mkfs.log"
	(cd "$BOOT_DIR" && find . -mindepth 1 | sort) | while read -r path; do
		path=${path#./}
		if [ -d "$BOOT_DIR/$path" ]; then
			mmd -i "$1" "::$path"
		else
			mcopy -m -i "$1" "$BOOT_DIR/$path" "::$path"
		fi
	done
}
