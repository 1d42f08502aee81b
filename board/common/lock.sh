# shellcheck shell=sh disable=SC2034,SC2154,SC2153 # variables come from, and go to, the script that sources this
# The lock file: which version of each Debian package goes into the image, and its SHA-256.
# Sourced by image.sh after debian.sh.
#
# A line is `NAME VERSION SHA256 BOARD`, BOARD a dash for all.

LOCK=$TOP/board/packages.lock
PACKAGES=$TOP/board/common/packages.list

# What packages.list asks for, as `NAME VERSION BOARD`, by what Debian has today.
newest_packages() {
	sed 's/#.*//' "$PACKAGES" | while read -r name suite board; do
		[ -n "$name" ] || continue
		board=${board:--}
		if [ "$name" != KERNEL ]; then
			printf '%s %s %s\n' "$name" "$(newest_version "$name" "${suite:-trixie}")" "$board"
			continue
		fi
		version=$(newest_version linux-image-arm64 "$suite")
		image=$(apt-cache show "linux-image-arm64=$version" |
			sed -n 's/^Depends:.*\(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1)
		for part in base binary modules; do
			printf '%s %s %s\n' "$(printf '%s' "$image" | sed "s/^linux-image/linux-$part/")" "$version" "$board"
		done
	done
}

# The newest version of a package in a suite; security updates count for trixie.
newest_version() {
	case $2 in
	trixie) found=$(apt-cache madison "$1" | awk '$6 == "trixie/main" || $6 == "trixie/non-free-firmware" || $6 ~ /^trixie-security/ { print $3 }') ;;
	*) found=$(apt-cache madison "$1" | awk -v suite="$2/" 'index($6, suite) == 1 { print $3 }') ;;
	esac
	# apt lists the newest first.
	found=$(printf '%s\n' "$found" | head -n 1)
	[ -n "$found" ] || die "Debian's $2 has no $1 any more: board/common/packages.list"
	printf '%s\n' "$found"
}

# Writes a lock of today's versions to the file $1.
write_lock() {
	debian_root arm64
	newest_packages >"$1.wanted"
	: >"$1.new"
	while read -r name version board; do
		deb=$(debian_fetch "$name=$version") || die "can't download $name=$version"
		printf '%s %s %s %s\n' "$name" "$version" "$(sha256sum "$deb" | cut -d ' ' -f 1)" "$board" >>"$1.new"
	done <"$1.wanted"
	rm "$1.wanted"
	mv "$1.new" "$1"
}

# Unpacks the packages of the lock file $1 for the board $2 into the directory $3. Every byte is checked first.
# Status 3: Debian no longer has a version.
unpack_locked() {
	while read -r name version sha256 for_board; do
		case $for_board in
		- | "$2") ;;
		*) continue ;;
		esac
		file=$(debian_pooled "$name=$version")
		if [ ! -f "$file" ]; then
			debian_root arm64
			if ! debian_fetch "$name=$version" >/dev/null; then
				say "Debian no longer has $name=$version: ./build.sh image --update-lock takes today's versions into"
				say "board/packages.lock, ./build.sh image --newest uses them without"
				return 3
			fi
		fi
		if [ "$(sha256sum "$file" | cut -d ' ' -f 1)" != "$sha256" ]; then
			rm -f "$file"
			die "$name=$version is not what board/packages.lock says (SHA-256); it has been removed"
		fi
		dpkg -x "$file" "$3"
	done <"$1"
}
