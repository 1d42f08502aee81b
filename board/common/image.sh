#!/bin/sh
# Makes the image for a board's SD card: image.sh --board NAME [--newest | --update-lock] [--program FILE] [--sign KEY].
# Called by ./build.sh image. No root, no loop mounts.
#
# What it writes, below target/image/NAME: lightnvr-NAME.img.xz (to be flashed) and lightnvr-NAME.img; with --sign, an
# Ed25519 key in PEM, also lightnvr-NAME.update for devices that were flashed with an image of that key. Same inputs
# give the same bytes: times are the last commit's, file systems have fixed ids, lists are sorted.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)
cd "$TOP"
COMMON=$TOP/board/common
LC_ALL=C
TZ=UTC
export LC_ALL TZ
PATH=$PATH:/usr/sbin:/sbin
umask 022

say() {
	printf 'image: %s\n' "$*" >&2
}

die() {
	printf 'image: %s\n' "$*" >&2
	exit 1
}

# shellcheck source=board/common/debian.sh
. "$COMMON/debian.sh"
# shellcheck source=board/common/lock.sh
. "$COMMON/lock.sh"
# shellcheck source=board/common/modules.sh
. "$COMMON/modules.sh"
# shellcheck source=board/common/root.sh
. "$COMMON/root.sh"

board='' program='' newest='' update_lock='' sign=''
while [ $# -gt 0 ]; do
	case $1 in
	--board | --program | --sign)
		[ $# -ge 2 ] || die "$1 wants a value"
		case $1 in
		--board) board=$2 ;;
		--program) program=$2 ;;
		--sign) sign=$2 ;;
		esac
		shift
		;;
	--newest) newest=yes ;;
	--update-lock) update_lock=yes ;;
	*) die "got $1, want --board NAME, --program FILE, --sign KEY, --newest or --update-lock" ;;
	esac
	shift
done

if [ -n "$update_lock" ]; then
	write_lock "$LOCK"
	say "board/packages.lock has today's versions"
	[ -n "$board" ] || exit 0
fi
boards=$(cd board && find . -name genimage.cfg | sort | sed 's,^\./\(.*\)/genimage.cfg,\1,' | tr '\n' ' ')
BOARD=$TOP/board/$board
[ -f "$BOARD/genimage.cfg" ] || die "--board: got '$board', want one of: $boards"

OUT=${LIGHTNVR_IMAGE_DIR:-$TOP/target/image}/$board
WORK=$OUT/work
# The slots' size is also in genimage.cfg; a root that would not fit both slots ends the build here.
ROOT_BYTES_MAX=$((64 << 20))
IMAGE_BYTES_MAX=64000000
DISK_ID=$(sed -n 's/^[[:space:]]*disk-signature = 0x\([0-9a-f]*\).*/\1/p' "$BOARD/genimage.cfg")
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH
export SOURCE_DATE_EPOCH E2FSPROGS_FAKE_TIME

lock=$LOCK
if [ -n "$newest" ]; then
	lock=$TOP/target/debian/newest.lock
	mkdir -p "$TOP/target/debian"
	write_lock "$lock"
fi
if [ -z "$program" ]; then
	program=$("$COMMON/cross.sh" aarch64)
fi
if [ -n "$sign" ]; then
	[ -f "$sign" ] || die "--sign: no file $sign; make a key with: openssl genpkey -algorithm ed25519 -out $sign"
	openssl pkey -in "$sign" -noout -text 2>/dev/null | grep -qi '^ED25519 Private-Key' || die "--sign: $sign is no Ed25519 key in PEM"
fi
[ -f "$program" ] || die "--program: no file $program"

rm -rf "$OUT"
mkdir -p "$WORK/boot" "$WORK/root" "$WORK/initrd" "$WORK/data" "$WORK/input"
# What the parts below and post-build.sh work on.
PACKAGES_DIR=$WORK/packages
ROOT_DIR=$WORK/root
BOOT_DIR=$WORK/boot
INPUT_DIR=$WORK/input
export TOP BOARD COMMON PACKAGES_DIR ROOT_DIR BOOT_DIR INPUT_DIR OUT DISK_ID VERSION
mkdir -p "$PACKAGES_DIR"
unpack_locked "$lock" "$board" "$PACKAGES_DIR" || exit $?
KERNEL=$(basename "$PACKAGES_DIR"/usr/lib/modules/*)
export KERNEL
say "$board: LightNVR $VERSION, Linux $KERNEL"

make_root
make_initrd
make_boot
"$BOARD/post-build.sh"

# Every time stamp is the same, and mode bits are those of this script, not of whoever checked out.
find "$WORK/root" "$WORK/boot" "$WORK/data" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
mksquashfs "$WORK/root" "$INPUT_DIR/root-a.squashfs" -comp zstd -Xcompression-level 19 -all-root -no-xattrs \
	-no-progress -quiet -processors 2 >&2
root_bytes=$(stat -c %s "$INPUT_DIR/root-a.squashfs")
[ "$root_bytes" -le "$ROOT_BYTES_MAX" ] || die "the root has $root_bytes bytes, a slot has $ROOT_BYTES_MAX"

if [ -n "$sign" ]; then
	"$COMMON/bundle.sh" "$sign" "$(basename "$BOARD")" "$VERSION" "$BOOT_DIR/a/kernel.gz" "$BOOT_DIR/a/initrd.zst" \
		"$INPUT_DIR/root-a.squashfs" "$OUT/lightnvr-$board.update"
	say "update $(stat -c %s "$OUT/lightnvr-$board.update") bytes"
else
	say "no --sign KEY: devices with this image take no updates"
fi

mke2fs -q -t ext4 -b 4096 -m 0 -L LIGHTNVR-DATA -U 4c4e5652-0000-4000-8000-000000000004 \
	-E hash_seed=4c4e5652-0000-4000-8000-000000000005,root_owner=0:0,lazy_itable_init=0,resize=268435456 \
	-J size=8 -d "$WORK/data" "$INPUT_DIR/data.ext4" 64M >&2
make_fat "$INPUT_DIR/boot.vfat" 256
mkdir "$WORK/empty"
genimage --rootpath "$WORK/empty" --tmppath "$WORK/tmp" --inputpath "$INPUT_DIR" --outputpath "$OUT" \
	--config "$BOARD/genimage.cfg" >"$WORK/genimage.log" 2>&1 || die "genimage: $(cat "$WORK/genimage.log")"

image=$OUT/lightnvr-$board.img
# Nearly all of it is compressed already: the fastest preset costs 1 %.
xz -1 -T2 --block-size=16MiB -k -f "$image"
image_bytes=$(stat -c %s "$image.xz")
say "squashfs $root_bytes bytes, initrd $(stat -c %s "$BOOT_DIR/a/initrd.zst") bytes, compressed image $image_bytes bytes"
[ "$image_bytes" -le "$IMAGE_BYTES_MAX" ] || die "the compressed image has $image_bytes bytes, at most $IMAGE_BYTES_MAX are allowed"
rm -rf "$WORK"
printf '%s\n' "$image.xz"
