#!/bin/sh
# Writes an image to a card: flash.sh [--board NAME | --image FILE] DEVICE. Called by ./build.sh flash.
#
# Refuses what is no whole disk, what is mounted, swapped on, in use, or built into this machine; shows what is on
# it, wants the device's name typed again, and reads everything back afterwards.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)

die() {
	printf 'flash: %s\n' "$*" >&2
	exit 1
}

board=rpi-arm64 image='' device=''
while [ $# -gt 0 ]; do
	case $1 in
	--board | --image)
		[ $# -ge 2 ] || die "$1 wants a value"
		case $1 in
		--board) board=$2 ;;
		--image) image=$2 ;;
		esac
		shift
		;;
	-*) die "got $1, want [--board NAME | --image FILE] DEVICE" ;;
	*)
		[ -z "$device" ] || die "one device only"
		device=$1
		;;
	esac
	shift
done
[ -n "$device" ] || die "which device? for example: ./build.sh flash /dev/sdb; lsblk lists them"
image=${image:-$TOP/target/image/$board/lightnvr-$board.img.xz}
[ -f "$image" ] || die "no $image: ./build.sh image --board $board makes it"
[ -b "$device" ] || die "$device is no block device"
name=$(basename "$(readlink -f "$device")")
[ "$(lsblk -dno TYPE "$device")" = disk ] || die "$device is not a whole disk (a partition?)"
# Cards in a built-in reader are mmcblk and not marked as removable; neither is what carries this system.
removable=$(cat "/sys/block/$name/removable")
transport=$(lsblk -dno TRAN "$device")
case $removable:$transport:$name in
1:* | *:usb:* | *:mmcblk*) ;;
*) die "$device is built into this machine (not removable, not USB, no memory card)" ;;
esac
used=$(lsblk -no MOUNTPOINTS "$device" | grep -v '^$' || true)
[ -z "$used" ] || die "$device is in use: $(printf '%s' "$used" | tr '\n' ' ')- unmount it first"
holders=$(find "/sys/block/$name/" -path '*/holders/*' | head -n 1)
[ -z "$holders" ] || die "$device is in use by $(basename "$holders")"
[ -w "$device" ] || die "no right to write $device; as root: sudo ./build.sh flash $device"
case $image in
*.xz) bytes=$(xz --robot -l "$image" | awk '$1 == "totals" { print $5 }') ;;
*) bytes=$(stat -c %s "$image") ;;
esac
size=$(lsblk -dnbo SIZE "$device")
[ "$size" -ge "$bytes" ] || die "$device has $size bytes, the image $bytes"

lsblk -o NAME,SIZE,MODEL,LABEL,FSTYPE "$device"
printf 'Everything on %s will be lost. Type its name to go on: ' "$name"
read -r answer || answer=
[ "$answer" = "$name" ] || die "got '$answer', not '$name': nothing was written"

unpacked() {
	case $image in
	*.xz) xz -dc "$image" ;;
	*) cat "$image" ;;
	esac
}
unpacked | dd "of=$device" bs=4M iflag=fullblock conv=fsync status=progress
# What the card says, not what this machine remembers.
blockdev --flushbufs "$device" 2>/dev/null || true
written=$(head -c "$bytes" "$device" | sha256sum)
[ "$written" = "$(unpacked | sha256sum)" ] || die "what $device holds is not what was written: try another card"
printf 'Written and compared: %s bytes. The card can go into the board.\n' "$bytes"
