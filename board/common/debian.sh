# shellcheck shell=sh disable=SC2034,SC2154,SC2153 # variables come from, and go to, the script that sources this
# Debian packages of another suite and architecture, without root and without touching the machine's own
# apt: an apt root of our own below target/, whose indexes are checked by Debian's signatures.
# Sourced by cross.sh and image.sh, which have set TOP. Needs `say` and `die`.

APT_DIR=${LIGHTNVR_APT_DIR:-$TOP/target/debian}
DEBIAN_KEYS=/usr/share/keyrings/debian-archive-keyring.gpg

# The machine's own mirror, so that a proxy or a mirror that is set up here is used; LIGHTNVR_DEBIAN names another.
debian_mirror() {
	if [ -n "${LIGHTNVR_DEBIAN:-}" ]; then
		printf '%s\n' "${LIGHTNVR_DEBIAN%/}"
		return
	fi
	# shellcheck disable=SC2016 # apt's own variable
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
		sed -n 's,^\(.*/debian\)/*$,\1,p' | head -n 1)
	[ -n "$mirror" ] || die "apt knows no Debian mirror here; name one: LIGHTNVR_DEBIAN=URL"
	printf '%s\n' "$mirror"
}

# Sets up the apt root for one architecture and brings its index up to date, at most once an hour.
debian_root() {
	arch=$1
	root=$APT_DIR/$arch
	APT_CONFIG=$root/apt.conf
	export APT_CONFIG
	[ -z "$(find "$root/updated" -mmin -60 2>/dev/null)" ] || return 0
	[ -f "$DEBIAN_KEYS" ] || die "$DEBIAN_KEYS is missing: apt-get install debian-archive-keyring"
	unset APT_CONFIG
	mirror=$(debian_mirror)
	mkdir -p "$root/etc/apt/preferences.d" "$root/etc/apt/apt.conf.d" "$root/var/lib/apt/lists/partial" \
		"$root/var/cache/apt/archives/partial" "$root/var/lib/dpkg"
	: >"$root/var/lib/dpkg/status"
	for suite in trixie trixie-backports; do
		printf 'deb [signed-by=%s] %s %s main non-free-firmware\n' "$DEBIAN_KEYS" "$mirror" "$suite"
	done >"$root/etc/apt/sources.list"
	printf 'deb [signed-by=%s] %s-security trixie-security main non-free-firmware\n' "$DEBIAN_KEYS" \
		"$mirror" >>"$root/etc/apt/sources.list"
	cat >"$root/apt.conf" <<CONF
Dir "$root";
Dir::State::status "$root/var/lib/dpkg/status";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
	APT_CONFIG=$root/apt.conf
	export APT_CONFIG
	say "reading Debian's package lists for $arch"
	apt-get update -qq || die "Debian's package lists can't be read"
	touch "$root/updated"
}

# Where the pool keeps NAME=VERSION.
debian_pooled() {
	printf '%s/pool/%s.deb\n' "$APT_DIR" "$(printf '%s' "$1" | sed 's/=/_/; s/:/%3a/g')"
}

# Downloads NAME=VERSION into the pool, where it is kept for the next time, and prints the file's path.
debian_fetch() {
	pooled=$(debian_pooled "$1")
	if [ ! -f "$pooled" ]; then
		mkdir -p "$APT_DIR/pool"
		fetched=$(mktemp -d "$APT_DIR/fetch.XXXXXX")
		if ! (cd "$fetched" && apt-get download -qq "$1" >&2); then
			rm -rf "$fetched"
			return 1
		fi
		mv "$fetched"/*.deb "$pooled"
		rmdir "$fetched"
	fi
	printf '%s\n' "$pooled"
}
