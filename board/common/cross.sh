#!/bin/sh
# Makes the static program for a board: cross.sh [aarch64|armv7]. Called by ./build.sh cross.
#
# Ways, the first that this machine has: 1. a Rust target that is installed, with zig or a musl cross gcc;
# 2. cross, where docker answers; 3. the standard library built from Debian's rust-src of exactly the
# installed version, with zig. None of them needs root.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)
cd "$TOP"
# A place of its own: cargo keeps per directory what it once learnt of a compiler.
CARGO_TARGET_DIR=${LIGHTNVR_CROSS_DIR:-$TOP/target/cross}
export CARGO_TARGET_DIR
ZIG_VENV=$TOP/target/zig-venv
TOOLCHAIN=$TOP/target/cross-toolchain

say() {
	printf 'cross: %s\n' "$*" >&2
}

die() {
	printf 'cross: %s\n' "$*" >&2
	exit 1
}

# shellcheck source=board/common/debian.sh
. "$TOP/board/common/debian.sh"

case ${1:-aarch64} in
aarch64) target=aarch64-unknown-linux-musl ;;
armv7) target=armv7-unknown-linux-musleabihf ;;
*) die "cross: got ${1}, want aarch64 or armv7" ;;
esac
gcc=$(printf '%s' "$target" | sed 's/-unknown//')-gcc
# The linker strips: Debian's own strip knows only its own machine. A panic names its line all the same.
CARGO_PROFILE_RELEASE_STRIP=symbols
CARGO_PROFILE_RELEASE_DEBUG=false
export CARGO_PROFILE_RELEASE_STRIP CARGO_PROFILE_RELEASE_DEBUG
# The program knows no paths of this machine, and the same source gives the same bytes.
flags="--remap-path-prefix=$TOP=/lightnvr --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"

# zig is the C and C++ compiler and linker of every target; it comes as a Python package. What is below the current
# directory it names relative to it, and bindgen looks for those headers from elsewhere: hence `cd board` before it runs.
have_zig() {
	want=$TOP/board/common/requirements.txt
	if ! cmp -s "$want" "$ZIG_VENV/requirements.txt"; then
		python=/usr/bin/python3
		[ -x "$python" ] || python=$(command -v python3) || return 1
		say "installing zig and cargo-zigbuild into target/zig-venv"
		rm -rf "$ZIG_VENV"
		"$python" -m venv "$ZIG_VENV" >&2 &&
			"$ZIG_VENV/bin/pip" install -q --disable-pip-version-check -r "$want" >&2 || return 1
		cp "$want" "$ZIG_VENV/requirements.txt"
	fi
	PATH=$ZIG_VENV/bin:$PATH
	export PATH
}

have_target() {
	[ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]
}

have_cross() {
	# A docker client without a daemon is common.
	command -v cross >/dev/null && command -v docker >/dev/null && docker info >/dev/null 2>&1
}

# A copy of the toolchain (links, no bytes, where the file system allows it) beside which the sources can be laid.
have_rust_src() {
	version=$(rustc --version | sed 's/^rustc \([0-9.]*\).*/\1/')
	mark=$TOOLCHAIN/rust-src-version
	[ "$(cat "$mark" 2>/dev/null)" != "$version" ] || return 0
	command -v apt-get >/dev/null || return 1
	debian_root "$(dpkg --print-architecture)"
	package=$(apt-cache madison rust-src | awk -v want="$version" \
		'{ split($3, part, "+"); if (part[1] == want) { print $3; exit } }')
	[ -n "$package" ] || return 1
	say "rust-src $package from Debian"
	deb=$(debian_fetch "rust-src=$package") || return 1
	rm -rf "$TOOLCHAIN"
	mkdir -p "$TOOLCHAIN/source"
	dpkg -x "$deb" "$TOOLCHAIN/source"
	real=$(cd "$(rustc --print sysroot)" && pwd -P)
	cp -al "$real" "$TOOLCHAIN/rust" 2>/dev/null || { rm -rf "$TOOLCHAIN/rust" && cp -a "$real" "$TOOLCHAIN/rust"; }
	rm -rf "$TOOLCHAIN/rust/lib/rustlib/src"
	mkdir -p "$TOOLCHAIN/rust/lib/rustlib/src"
	source=$(find "$TOOLCHAIN/source/usr/src" -mindepth 1 -maxdepth 1 -type d -name 'rustc-*' | head -n 1)
	[ -d "$source/library/std" ] || die "$package holds no library/std"
	ln -s "$source" "$TOOLCHAIN/rust/lib/rustlib/src/rust"
	printf '%s\n' "$version" >"$mark"
}

if have_target && have_zig; then
	say "$target: installed Rust target, zig"
	cd board
	RUSTFLAGS=$flags cargo zigbuild --release --locked --bin lightnvr --target "$target"
elif have_target && command -v "$gcc" >/dev/null; then
	say "$target: installed Rust target, $gcc"
	upper=$(printf '%s' "$target" | tr 'a-z-' 'A-Z_')
	name=$(printf '%s' "$target" | tr - _)
	# libclang looks for the target's headers where this compiler has them.
	env "CARGO_TARGET_${upper}_LINKER=$gcc" "CC_$name=$gcc" "CXX_$name=${gcc%gcc}g++" \
		"BINDGEN_EXTRA_CLANG_ARGS_$name=--sysroot=$("$gcc" -print-sysroot)" "RUSTFLAGS=$flags" \
		cargo build --release --locked --bin lightnvr --target "$target"
elif have_cross; then
	say "$target: cross"
	CROSS_CONFIG=cross.toml cross build --release --locked --bin lightnvr --target "$target"
elif have_rust_src && have_zig; then
	say "$target: standard library from Debian's rust-src, zig"
	# The copy's own cargo: rustup's sets LD_LIBRARY_PATH, and rustc takes the place of its library for its own.
	# Without self-contained=no the linker looks for a crt1.o that only a prebuilt target has.
	cd board
	env RUSTC_BOOTSTRAP=1 "PATH=$TOOLCHAIN/rust/bin:$PATH" "RUSTC=$TOOLCHAIN/rust/bin/rustc" \
		"RUSTFLAGS=$flags -Clink-self-contained=no --remap-path-prefix=$TOOLCHAIN=/toolchain" \
		cargo zigbuild --release --locked --bin lightnvr --target "$target" -Z build-std=std,panic_unwind
else
	die "no way to build for $target; one of these is enough:
  rustup target add $target, and python3-venv (zig comes as a Python package) or $gcc
  cargo install cross, and a docker that answers \`docker info\`
  python3-venv, apt-get, and a Rust whose version Debian's rust-src has too (here: $(rustc --version))"
fi

built=$CARGO_TARGET_DIR/$target/release/lightnvr
[ -f "$built" ] || die "$built was not made"
say "$target: $(stat -c %s "$built") bytes, stripped"
printf '%s\n' "$built"
