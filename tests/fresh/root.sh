# Bare Debian 12 roots, for tests of what a new machine makes of the project; sourced, never run.
# shellcheck shell=bash
#
# The caller is a program that runs itself again as SELF --inside ROOT ..., in mount and process
# namespaces of its own: whatever it mounts or starts there is gone when it ends, before anything
# is deleted.

REPO_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
FRESH_DIR=$REPO_DIR/build/fresh
SUITE=bookworm
PROGRAM=${SELF#"$REPO_DIR"/}

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }
fail() { local status=$1; shift; say "$*"; exit "$status"; }

# --- outside: make a root ------------------------------------------------------------------------

# SCRATCH, which is gone at the end. Nothing is mounted below it out here; --one-file-system all the
# same.
make_scratch() {
    ((EUID == 0)) || fail 1 'needs root, for debootstrap and chroot'
    mkdir -p "$FRESH_DIR"
    SCRATCH=$(mktemp -d "$FRESH_DIR/scratch.XXXXXX")
    trap 'rm -rf --one-file-system "$SCRATCH"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Lines "SUITE COMPONENT URI" of the machine's Debian sources; others' repositories are left out.
debian_sources() {
    apt-get indextargets --format "\$(RELEASE) \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages' |
        grep -E "^$SUITE(-updates|-security)? .*/debian(-security)?/?\$" | sort -u
}

# A tar of a root with these packages (a comma between them), kept for the next time. The packages
# are in its name, so that a changed set is not taken for the cached one.
build_bare_root() {
    local packages=$1 uri scratch proxy
    BARE_ROOT=$FRESH_DIR/$SUITE-$packages.tar
    [[ ! -s $BARE_ROOT ]] || return 0
    "$REPO_DIR/tools/setup" fresh
    uri=$(debian_sources | awk -v suite="$SUITE" '$1 == suite && $2 == "main" { print $3; exit }')
    [[ -n $uri ]] || fail 1 "this machine's apt sources have no Debian $SUITE"
    proxy=$(apt-config shell proxy Acquire::http::Proxy | sed -n "s/^proxy='\(.*\)'\$/\1/p")
    [[ -z $proxy || $proxy == DIRECT ]] || export http_proxy=$proxy
    say "building a bare Debian $SUITE with ${packages//,/, }"
    scratch=$SCRATCH/bare
    if ! debootstrap --variant=minbase --include="$packages" "$SUITE" "$scratch" "$uri" \
        >"$SCRATCH/log" 2>&1; then
        tail -n 20 "$SCRATCH/log" >&2
        fail 1 'debootstrap failed'
    fi
    rm -rf "$scratch"/var/cache/apt/archives/*.deb "$scratch"/var/lib/apt/lists/*
    tar -C "$scratch" --numeric-owner -cf "$BARE_ROOT.new" .
    mv "$BARE_ROOT.new" "$BARE_ROOT"
    rm -rf --one-file-system "$scratch"
}

# How to reach the archive is this machine's affair, so it is taken over anew each time.
copy_apt_configuration() {
    local root=$1 file suite component uri
    debian_sources | while read -r suite component uri; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite $component"
    done >"$root/etc/apt/sources.list"
    apt-config dump | grep '^Acquire::' >"$root/etc/apt/apt.conf.d/90machine" || true
    for file in /etc/apt/auth.conf /etc/apt/auth.conf.d/*; do
        [[ ! -f $file ]] || install -D -m 600 "$file" "$root$file"
    done
    for file in /etc/resolv.conf /etc/hosts; do
        [[ ! -e $file ]] || cp "$file" "$root$file"
    done
}

unpack_root() {
    local root=$1
    mkdir "$root"
    tar -C "$root" --numeric-owner -xf "$BARE_ROOT"
    copy_apt_configuration "$root"
}

run_inside() {
    unshare --mount --propagation private --pid --fork --kill-child "$SELF" --inside "$@"
}

# --- inside: run in it ---------------------------------------------------------------------------

# Only the plain devices: no disks, and no ublk driver even where this machine has it.
mount_devices() {
    local dev=$1/dev node
    mount -t tmpfs -o mode=0755 dev "$dev"
    for node in null zero full random urandom tty kvm; do
        [[ -e /dev/$node ]] || continue
        : >"$dev/$node"
        mount --bind "/dev/$node" "$dev/$node"
    done
    mkdir "$dev/pts" "$dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$dev/pts"
    ln -s pts/ptmx "$dev/ptmx"
    mount -t tmpfs -o mode=1777 shm "$dev/shm"
    ln -s /proc/self/fd "$dev/fd"
    ln -s fd/0 "$dev/stdin"
    ln -s fd/1 "$dev/stdout"
    ln -s fd/2 "$dev/stderr"
}

mount_root() {
    local root=$1
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sys "$root/sys"
    mount_devices "$root"
}

in_root() {
    local root=$1 pass=() name
    shift
    for name in http_proxy https_proxy no_proxy CI TERM; do
        [[ -z ${!name:-} ]] || pass+=("$name=${!name}")
    done
    chroot "$root" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${pass[@]}" "$@" \
        </dev/null
}
