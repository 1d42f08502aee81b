#!/bin/sh
# Builds, runs and tests LightNVR on Debian 12, Debian 13 and Raspberry Pi OS. Without a word it
# lists what it can do. Missing Debian packages are installed and named first; nothing else outside
# of target/, web/node_modules and web/dist is touched.
set -eu
cd "$(dirname "$0")"

# The documents promise target/release/lightnvr, wherever the caller keeps other builds.
CARGO_TARGET_DIR="$PWD/target"
export CARGO_TARGET_DIR
DEMO_DIR=target/demo
VENV_DIR=target/venv
NPM_DIR=target/npm

usage() {
	cat <<'USAGE'
usage: ./build.sh COMMAND
  run     build, then start the demo in target/demo (more arguments go to the program)
  build   the release binary, target/release/lightnvr
  check   the quick loop: rustfmt, clippy, unit tests, shellcheck, tidy test
  test    everything: check, release build, all tests against the release binary
  bench   CPU, memory and losses beside other recorders and the floor, three quarters of an hour, then the latency of live view;
          tables here, figures in target/bench/latest.json (arguments go to tests/bench/bench.py, --help lists them)
  soak    what takes longer than test: 100 kills instead of 25, a disk that stalls for 30 s instead of 12, 12 power
          cuts instead of one, wear over an hour, a million recordings, ten rounds of 250 viewers instead of one,
          20 s of a processor for each fuzz target instead of 4, updates with power cuts in each phase,
          20 power cuts of a device that records, its cameras, an image that is made twice
  fuzz    [TARGET [SECONDS]]: one target of tests/fuzz/, or each, under libFuzzer for 900 s; what is found ends up
          in target/fuzz/found/ (wants nightly Rust and cargo-fuzz, and says so)
  cross   [aarch64|armv7]: the static program for a board, without root and without docker
  image   --board rpi-arm64|virt-arm64: the image for a board's SD card, target/image/BOARD/*.img.xz
          (--sign KEY: devices with it take updates signed with that Ed25519 key, and one is made, *.update;
          --update-lock: take today's Debian packages; board/README.md has the rest)
  flash   [--board BOARD] /dev/sdX: write the image to a card, with questions first, and compare it
USAGE
}

say() {
	printf 'build.sh: %s\n' "$*"
}

die() {
	printf 'build.sh: %s\n' "$*" >&2
	exit 1
}

# Installs what is missing. Each argument is TEST:PACKAGE; TEST is a command that the package brings,
# or a file if it starts with a slash, or empty to ask dpkg (for packages without a command).
need() {
	missing=
	for pair in "$@"; do
		test=${pair%%:*}
		package=${pair#*:}
		case $test in
		'') dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed && continue ;;
		/*) [ -e "$test" ] && continue ;;
		*) command -v "$test" >/dev/null && continue ;;
		esac
		missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || die "these Debian packages are missing, and there is no apt-get:$missing"
	say "installing Debian packages:$missing"
	apt_get update -q
	# shellcheck disable=SC2086 # a list of package names
	apt_get install -y -q --no-install-recommends $missing
}

# apt-get as root.
apt_get() {
	as_root=
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null || die "not root and no sudo; as root: apt-get $*"
		as_root=sudo
	fi
	$as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@" </dev/null
}

# Ends with advice unless cargo is there and at least as new as rust-version in Cargo.toml says.
need_cargo() {
	want=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' Cargo.toml)
	# rustup puts cargo where a shell that was open before doesn't look.
	command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
	have=none
	if command -v cargo >/dev/null; then
		have=$(cargo --version | sed 's/^cargo \([0-9]*\.[0-9]*\).*/\1/')
		oldest=$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)
		[ "$oldest" = "$want" ] && return 0
	fi
	cat >&2 <<ADVICE
build.sh: Rust $want or newer is needed, found: $have. Debian's own rustc and cargo are too old.
  A newer one, for your user alone:
    Debian 13:  sudo apt-get install rustup && rustup default stable
    elsewhere:  follow https://rustup.rs, then open a new shell
  An older rustup toolchain is brought up to date by: rustup update stable
ADVICE
	exit 1
}

need_build() {
	need_cargo
	# openh264 is C++, and its x86 assembly is written for nasm. The bindings of v4l are made with libclang.
	set -- cc:gcc g++:g++ /etc/ssl/certs/ca-certificates.crt:ca-certificates :libclang-dev
	case $(uname -m) in
	x86_64 | i?86) set -- "$@" nasm:nasm ;;
	esac
	need "$@"
	# Four compilers at once don't fit into a 2 GB board.
	if [ -z "${CARGO_BUILD_JOBS:-}" ] && [ "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)" -lt 3000000 ]; then
		export CARGO_BUILD_JOBS=2
	fi
}

need_check() {
	# The unit tests of media/ are judged by ffmpeg.
	need shellcheck:shellcheck ffmpeg:ffmpeg
	for part in fmt clippy; do
		cargo "$part" --version >/dev/null 2>&1 ||
			die "cargo $part is missing: rustup component add rustfmt clippy"
	done
}

need_gst() {
	need /usr/bin/python3:python3 ffmpeg:ffmpeg :python3-gi :gir1.2-gst-rtsp-server-1.0 \
		:gstreamer1.0-plugins-base :gstreamer1.0-plugins-good
}

need_test() {
	need_gst
	need curl:curl faketime:faketime chromium:chromium chromedriver:chromium-driver :python3-venv \
		/usr/sbin/mkfs.ext4:e2fsprogs /usr/bin/unshare:util-linux \
		node:nodejs npm:npm gst-launch-1.0:gstreamer1.0-tools :gstreamer1.0-plugins-bad \
		cvlc:vlc-bin :vlc-plugin-base firefox-esr:firefox-esr openssl:openssl :glib-networking
	# Debian's python3, because another one on PATH may come without venv.
	if ! cmp -s tests/requirements.txt "$VENV_DIR/requirements.txt"; then
		say "installing tests/requirements.txt into $VENV_DIR"
		rm -rf "$VENV_DIR"
		/usr/bin/python3 -m venv "$VENV_DIR"
		"$VENV_DIR/bin/pip" install -q --disable-pip-version-check -r tests/requirements.txt
		cp tests/requirements.txt "$VENV_DIR/requirements.txt"
	fi
	if ! cmp -s tests/package.json "$NPM_DIR/installed.json"; then
		say "installing tests/package.json into $NPM_DIR"
		rm -rf "$NPM_DIR"
		mkdir -p "$NPM_DIR"
		cp tests/package.json "$NPM_DIR/package.json"
		# By force, because go2rtc's package wants an x86_64 and a newer Node than Debian's, and needs neither here.
		npm install --prefix "$NPM_DIR" --force --no-audit --no-fund --ignore-scripts --loglevel=error
		cp tests/package.json "$NPM_DIR/installed.json"
	fi
}

# Builds the web page into web/dist, where cargo finds it, unless its sources are those of the last time.
page() {
	need node:nodejs npm:npm /usr/bin/sha256sum:coreutils
	version=$(node --version | sed 's/^v\([0-9]*\).*/\1/')
	[ "$version" -ge 18 ] || die "the web page needs Node 18 or newer, found: $(node --version)"
	sources=$(find web -type d \( -name node_modules -o -name dist -o -name screenshots \) -prune -o -type f -print | LC_ALL=C sort | xargs sha256sum)
	if [ -f web/dist/index.html ] && [ "$sources" = "$(cat web/dist/.sources 2>/dev/null)" ]; then
		return 0
	fi
	say "building the web page"
	if ! cmp -s web/package-lock.json web/node_modules/.installed; then
		npm ci --prefix web --no-audit --no-fund --ignore-scripts --loglevel=error
		cp web/package-lock.json web/node_modules/.installed
	fi
	npm run --prefix web --silent build
	printf '%s\n' "$sources" >web/dist/.sources
}

# Tests with a kernel of their own run on x86_64 only.
need_vm() {
	[ "$(uname -m)" = x86_64 ] || return 0
	need qemu-system-x86_64:qemu-system-x86 make:make pahole:pahole :busybox-static cpio:cpio xz:xz-utils strip:binutils \
		/usr/sbin/dmsetup:dmsetup /usr/sbin/depmod:kmod /usr/sbin/debugfs:e2fsprogs
	# The lists of packages may name a kernel that is gone.
	tests/vm/make_guest.sh target/vm || {
		apt_get update -q
		tests/vm/make_guest.sh target/vm
	}
}

# The image that is booted, from the program that a board gets. A lock file whose packages Debian no longer has is no
# reason for the tests to fail: then today's are taken, and image.sh says so.
need_board() {
	need_image
	need qemu-system-aarch64:qemu-system-arm qemu-img:qemu-utils unsquashfs:squashfs-tools
	program=$(board/common/cross.sh aarch64)
	status=0
	# The tests sign their own updates.
	key=target/image/test-key.pem
	mkdir -p target/image
	[ -f "$key" ] || (umask 077 && openssl genpkey -algorithm ed25519 -out "$key")
	board/common/image.sh --board virt-arm64 --program "$program" --sign "$key" || status=$?
	if [ "$status" -eq 3 ]; then
		board/common/image.sh --board virt-arm64 --program "$program" --sign "$key" --newest
	elif [ "$status" -ne 0 ]; then
		return "$status"
	fi
}

release() {
	page
	cargo build --release --locked
}

# All tests, or those that the arguments of `cargo test` select.
run_tests() {
	LIGHTNVR_BIN="$PWD/target/release/lightnvr"
	export LIGHTNVR_BIN
	if cargo nextest --version >/dev/null 2>&1; then
		cargo nextest run --locked --no-fail-fast "$@"
	else
		# Two at a time, as nextest does it on two cores: the tests start recorders and browsers.
		cargo test --locked --no-fail-fast "$@" -- --test-threads=2
	fi
}

cmd_run() {
	need_build
	release
	mkdir -p "$DEMO_DIR"
	if [ -f "$DEMO_DIR/initial-password" ]; then
		say "user admin, password $(cat "$DEMO_DIR/initial-password") (from $DEMO_DIR/initial-password)"
	elif [ -n "$(ls -A "$DEMO_DIR")" ]; then
		say "user admin, with the password that you chose; to begin anew: rm -r $DEMO_DIR"
	fi
	exec target/release/lightnvr --data-dir "$DEMO_DIR" --demo "$@"
}

cmd_build() {
	need_build
	release
}

cmd_check() {
	need_build
	need_check
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	shellcheck build.sh .ci/run tests/vm/make_guest.sh tests/vm/guest/etc/rc tests/vm/guest/www/cgi-bin/run
	shellcheck -x board/common/*.sh board/common/initramfs-init board/*/post-build.sh \
		rootfs-overlay/etc/init.d/* rootfs-overlay/etc/udhcpc/script
	cargo test --locked --lib --test tidy
}

cmd_test() {
	cmd_check
	need_test
	need_vm
	need_board
	release
	run_tests
}

cmd_soak() {
	need_build
	need_test
	need_vm
	need_board
	release
	SOAK=1 run_tests --test record_kill --test disk_stall --test million --test live_load --test fuzz \
		--test vm_memory --test vm_power_cut --test vm_wear --test board --test board_update --test board_build \
		--test board_cameras
}

# libFuzzer comes with nightly Rust only. Neither is installed behind the owner's back.
need_fuzz() {
	need_build
	cargo +nightly --version >/dev/null 2>&1 ||
		die "fuzz needs nightly Rust beside the other: rustup toolchain install nightly --profile minimal"
	cargo fuzz --version >/dev/null 2>&1 || die "fuzz needs cargo-fuzz: cargo install cargo-fuzz --locked"
}

# What was learned is kept in target/fuzz/corpus/ for the next time.
cmd_fuzz() {
	[ $# -le 2 ] || die "fuzz takes a target and a number of seconds"
	known=$(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"/\1/p' tests/fuzz/Cargo.toml)
	targets=${1:-$known}
	seconds=${2:-900}
	[ -z "${1:-}" ] || printf '%s\n' "$known" | grep -qxF "$1" ||
		die "no such target: $1; there are: $(printf '%s' "$known" | tr '\n' ' ')"
	case $seconds in
	'' | *[!0-9]* | 0*) die "seconds is a whole number from 1, got: $seconds" ;;
	esac
	need_fuzz
	cargo +nightly fuzz build --fuzz-dir tests/fuzz --target-dir target/fuzz
	host=$(rustc +nightly -vV | sed -n 's/^host: //p')
	found=
	for target in $targets; do
		say "fuzzing $target for $seconds s"
		mkdir -p "target/fuzz/corpus/$target" "target/fuzz/found/$target"
		"target/fuzz/$host/release/$target" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" \
			-max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 \
			-artifact_prefix="target/fuzz/found/$target/" || found="$found $target"
	done
	[ -z "$found" ] || die "there is something in target/fuzz/found/ for:$found"
}

need_cross() {
	need_build
	# The program carries it.
	page
	need /usr/bin/python3:python3 :python3-venv apt-get:apt dpkg:dpkg \
		/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
}

# What image.sh calls. None of it runs as root.
need_image() {
	need_cross
	need mksquashfs:squashfs-tools /usr/sbin/mkfs.vfat:dosfstools mcopy:mtools genimage:genimage \
		/usr/sbin/mke2fs:e2fsprogs cpio:cpio /usr/sbin/depmod:kmod mkimage:u-boot-tools zstd:zstd xz:xz-utils \
		readelf:binutils openssl:openssl
}

cmd_cross() {
	[ $# -le 1 ] || die "cross takes one architecture at most"
	need_cross
	board/common/cross.sh "$@"
}

cmd_image() {
	need_image
	board/common/image.sh "$@"
}

cmd_flash() {
	need lsblk:util-linux xz:xz-utils
	board/common/flash.sh "$@"
}

cmd_bench() {
	need_build
	need_gst
	need motion:motion gst-launch-1.0:gstreamer1.0-tools :gstreamer1.0-plugins-bad
	need wrk:wrk ip:iproute2 unshare:util-linux
	release
	cargo build --release --locked --example camera_farm --example floor
	over=
	/usr/bin/python3 tests/bench/bench.py "$@" || over=yes
	LIGHTNVR_BIN="$PWD/target/release/lightnvr" BENCH=1 \
		cargo test --locked --test live_latency -- --nocapture
	[ -z "$over" ] || die "a figure is over its limit, see above"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
run | bench | fuzz | cross | image | flash) "cmd_$command" "$@" ;;
build | check | test | soak)
	[ $# -eq 0 ] || die "$command takes no arguments"
	"cmd_$command"
	;;
'') usage ;;
*)
	usage >&2
	die "no such command: $command"
	;;
esac
