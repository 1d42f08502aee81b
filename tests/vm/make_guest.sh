#!/bin/sh
# Makes a small Linux for tests that need a kernel of their own: Debian's kernel of this machine's release,
# busybox, dmsetup, and the modules that the tests use; v4l2loopback is compiled for that kernel from Debian's source of
# it. No root, no loop mounts.
#
# usage: make_guest.sh DIR     writes DIR/vmlinuz and DIR/base.cpio; keeps the packages there, too
#        make_guest.sh DIR PROGRAM OUT     writes an initial RAM disk with PROGRAM as /bin/lightnvr
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)

# In this order; what they depend on comes before them. ext4 asks for crc32c by a soft dependency.
BASE_MODULES="virtio_pci virtio_blk virtio_net crc32c_generic ext4 dm_mod dm_flakey"
# Loaded on request: `load vivid` in the guest.
MORE_MODULES="vivid v4l2loopback i6300esb"

die() {
	printf 'make_guest.sh: %s\n' "$*" >&2
	exit 1
}

# Copies a program and the libraries that it asks for into a root.
install_program() {
	root=$1 from=$2 to=$3
	mkdir -p "$root/$(dirname "$to")"
	strip -o "$root/$to" "$from"
	for library in $(ldd "$from" | grep -o '/[^ ]*'); do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
}

# As root's files, whoever makes them.
pack() {
	(cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2"
}

kernel_package() {
	apt-cache depends "linux-image-$(dpkg --print-architecture)" 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

# Packages that the headers of a kernel need to compile a module.
headers_packages() {
	apt-cache depends "linux-headers-$1" |
		sed -n 's/^ *Depends: \(linux-\(headers-.*-common\|kbuild-.*\)\)$/\1/p'
}

fetch_packages() {
	# It is put in place last.
	set -- "$dir"/v4l2loopback-dkms_*.deb
	[ -e "$1" ] && return 0
	image=$(kernel_package)
	[ -n "$image" ] || die "apt knows no kernel: apt-get update, as root"
	headers=${image#linux-image-}
	rm -rf "$dir"/*.deb "$dir/fetched"
	mkdir "$dir/fetched"
	# shellcheck disable=SC2046 # a list
	(cd "$dir/fetched" && apt-get -q -o APT::Sandbox::User="$(id -un)" download \
		"$image" "linux-headers-$headers" $(headers_packages "$headers") v4l2loopback-dkms)
	mv "$dir"/fetched/linux-*.deb "$dir"
	mv "$dir"/fetched/v4l2loopback-*.deb "$dir"
	rmdir "$dir/fetched"
}

# Debian's headers name where they would be installed, and their compiler.
compile_loopback() {
	headers=$work/usr/src/linux-headers-$release
	sed -i "s#/usr/src/#$work/usr/src/#" "$headers/Makefile"
	set -- "$work"/usr/src/v4l2loopback-*
	make -s -C "$headers" M="$1" CC=cc modules >"$work/make.log" 2>&1 || {
		cat "$work/make.log" >&2
		die "v4l2loopback can't be compiled for $release"
	}
	mkdir -p "$work/lib/modules/$release/extra"
	strip --strip-debug -o "$work/lib/modules/$release/extra/v4l2loopback.ko" "$1/v4l2loopback.ko"
}

# One `insmod` list for a module with all that it needs, its files beside it.
install_module() {
	name=$1 list=$root/modules/$2.list
	mkdir -p "$root/modules"
	modprobe -d "$work" -S "$release" --show-depends "$name" >"$work/depends"
	while read -r what path _; do
		[ "$what" = insmod ] || continue
		file=$(basename "$path")
		case $file in
		*.xz) xz -dc "$path" >"$root/modules/${file%.xz}" ;;
		*) cp "$path" "$root/modules/$file" ;;
		esac
		printf '%s\n' "${file%.xz}" >>"$list"
	done <"$work/depends"
}

make_base() {
	want=$(cat "$here/make_guest.sh" "$here/feed.c" "$here"/guest/etc/* "$here"/guest/www/cgi-bin/* | cksum)
	[ "$(cat "$dir/made" 2>/dev/null)" = "$want" ] && return 0
	mkdir -p "$dir"
	fetch_packages
	work=$dir/work.$$
	mkdir "$work"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM
	for package in "$dir"/*.deb; do dpkg -x "$package" "$work"; done
	[ -e "$work/lib" ] || ln -s usr/lib "$work/lib"
	release=$(basename "$work"/lib/modules/*)
	compile_loopback
	depmod -b "$work" "$release"
	root=$work/root
	mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/run"
	cp -R "$here/guest/." "$root"
	chmod 755 "$root/etc/rc" "$root/www/cgi-bin/run"
	cp "$(command -v busybox)" "$root/bin/busybox"
	ldd "$root/bin/busybox" >/dev/null 2>&1 && die "busybox is not static: install busybox-static"
	ln -s bin/busybox "$root/init"
	ln -s busybox "$root/bin/sh"
	install_program "$root" "$(PATH=$PATH:/usr/sbin:/sbin command -v dmsetup)" bin/dmsetup
	cc -O1 -Wall -Werror -static -o "$root/bin/feed" "$here/feed.c"
	strip "$root/bin/feed"
	for module in $BASE_MODULES; do install_module "$module" base; done
	for module in $MORE_MODULES; do install_module "$module" "$module"; done
	pack "$root" "$dir/base.cpio"
	cp "$work"/boot/vmlinuz-* "$dir/vmlinuz"
	printf '%s' "$want" >"$dir/made"
}

# The kernel reads one archive after the other.
add_program() {
	work=$3.$$
	mkdir "$work"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' INT TERM
	install_program "$work/root" "$2" bin/lightnvr
	pack "$work/root" "$work/program.cpio"
	cat "$1/base.cpio" "$work/program.cpio" >"$3"
}

PATH=$PATH:/usr/sbin:/sbin
case $# in
1)
	mkdir -p "$1"
	dir=$(cd "$1" && pwd)
	make_base
	;;
3) add_program "$@" ;;
*) die "usage: make_guest.sh DIR [PROGRAM OUT]" ;;
esac
