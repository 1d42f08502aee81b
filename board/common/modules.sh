# shellcheck shell=sh disable=SC2034,SC2154,SC2153 # variables come from, and go to, the script that sources this
# Kernel modules: those that a board's lists name, with all that they need, decompressed (the squashfs
# compresses them better). Sourced by image.sh.
#
# A line of kernel-modules.list is a module's name; `boot NAME` puts it into the initramfs too. A name that is
# built into the kernel is fine; one that the kernel does not have at all ends the build.

# shellcheck disable=SC2120 # `set` gives it arguments
# Names from the lists: all, or with the argument `boot` those of the initramfs.
listed_modules() {
	set -- "$COMMON/kernel-modules.list" "$BOARD/kernel-modules.list"
	if [ "${only:-}" = boot ]; then
		sed 's/#.*//' "$@" | awk '$1 == "boot" { print $2 }'
	else
		sed 's/#.*//' "$@" | awk '$1 == "boot" { print $2; next } NF { print $1 }'
	fi | sort -u
}

# Paths, below the kernel's module directory, of the modules named on standard input and of what they
# depend on, soft dependencies too.
module_closure() {
	python3 - "$PACKAGES_DIR/usr/lib/modules/$KERNEL" <<'PYTHON'
import os, sys

top = sys.argv[1]


def name_of(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


needs, paths = {}, {}
for line in open(f"{top}/modules.dep"):
    path, _, rest = line.partition(":")
    paths[name_of(path)] = path
    needs[name_of(path)] = [name_of(p) for p in rest.split()]
for line in open(f"{top}/modules.softdep"):
    words = line.split()
    if words[:1] == ["softdep"]:
        soft = [w.replace("-", "_") for w in words[2:] if not w.endswith(":")]
        needs.setdefault(words[1].replace("-", "_"), []).extend(soft)
aliases = {}
for line in open(f"{top}/modules.alias"):
    words = line.split()
    if len(words) == 3:
        aliases.setdefault(words[1], []).append(words[2])
builtin = {name_of(line.strip()) for line in open(f"{top}/modules.builtin")}
wanted = [(name.replace("-", "_"), True) for name in os.environ["WANTED"].split()]
taken, missing = set(), []
while wanted:
    name, is_listed = wanted.pop()
    if name in taken or name in builtin:
        continue
    if name in paths:
        taken.add(name)
        wanted.extend((n, False) for n in needs.get(name, []))
    elif name in aliases:
        wanted.extend((n, False) for n in aliases[name])
    elif is_listed:
        missing.append(name)
if missing:
    sys.exit("image: no such kernel module: " + " ".join(sorted(missing)))
print("\n".join(sorted(paths[name] for name in taken)))
PYTHON
}

# Copies modules into the tree $1. With `only=boot` those of the initramfs alone.
install_modules() {
	from=$PACKAGES_DIR/usr/lib/modules/$KERNEL
	to=$1/lib/modules/$KERNEL
	if [ ! -f "$from/modules.dep" ]; then
		# depmod looks below lib/, Debian's packages have usr/lib.
		[ -e "$PACKAGES_DIR/lib" ] || ln -s usr/lib "$PACKAGES_DIR/lib"
		depmod -b "$PACKAGES_DIR" "$KERNEL"
	fi
	WANTED=$(listed_modules | tr '\n' ' ')
	export WANTED
	module_closure >"$WORK/modules.txt" || exit 1
	while read -r path; do
		mkdir -p "$to/$(dirname "$path")"
		case $path in
		*.xz) xz -dc "$from/$path" >"$to/${path%.xz}" ;;
		*) cp "$from/$path" "$to/$path" ;;
		esac
	done <"$WORK/modules.txt"
	for name in modules.order modules.builtin modules.builtin.modinfo; do
		cp "$from/$name" "$to/$name"
	done
	depmod -b "$1" "$KERNEL"
	# busybox reads the text forms; the lists were for depmod alone.
	(cd "$to" && rm -f ./*.bin modules.order modules.builtin.modinfo modules.devname modules.weakdep)
}
