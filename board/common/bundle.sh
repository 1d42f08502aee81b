#!/bin/sh
# Makes the bundle of an update: bundle.sh KEY BOARD VERSION KERNEL INITRD ROOT OUT.
#
# KEY is an Ed25519 key in PEM. The layout is in src/update/bundle_core.rs. Same inputs give the same bytes: an Ed25519
# signature has no chance in it (RFC 8032).
set -eu
[ $# -eq 7 ] || {
	echo "usage: bundle.sh KEY BOARD VERSION KERNEL INITRD ROOT OUT" >&2
	exit 1
}
TOP=$(cd "$(dirname "$0")/../.." && pwd)
key=$1 board=$2 version=$3 kernel=$4 initrd=$5 root=$6 out=$7

size_and_sum() {
	printf '%s %s\n' "$(stat -c %s "$1")" "$(sha256sum <"$1" | cut -d ' ' -f 1)"
}

# The oldest schema whose program opens the store that this version leaves.
store=$(sed -n 's/^pub const SCHEMA_BACK: u64 = \([0-9]*\);/\1/p' "$TOP/src/store/mod.rs")
[ -n "$store" ] || {
	echo "bundle.sh: no SCHEMA_BACK in src/store/mod.rs" >&2
	exit 1
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
{
	echo "lightnvr-update 1"
	echo "board=$board"
	echo "version=$version"
	echo "store=$store"
	echo "kernel=$(size_and_sum "$kernel")"
	echo "initrd=$(size_and_sum "$initrd")"
	echo "root=$(size_and_sum "$root")"
} >"$dir/header"
bytes=$(stat -c %s "$dir/header")
{
	printf LNVRUPD1
	# Little-endian, as four bytes in octal.
	for shift in 0 8 16 24; do
		# shellcheck disable=SC2059 # the format is the byte
		printf "\\$(printf %03o $((bytes >> shift & 255)))"
	done
	cat "$dir/header"
} >"$dir/signed"
openssl pkeyutl -sign -rawin -inkey "$key" -in "$dir/signed" -out "$dir/signature"
cat "$dir/signed" "$dir/signature" "$kernel" "$initrd" "$root" >"$out"
