# Shared by vm/fetch, vm/run and vm/reset; sourced, never run.
# shellcheck shell=bash

VM_SOURCE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
REPO_DIR=$(dirname "$VM_SOURCE_DIR")
# Everything the VM lane makes lives here, so removing this one directory undoes it.
VM_DIR=$REPO_DIR/build/vm
KERNELS_DIR=$VM_DIR/kernels

PROGRAM=vm/$(basename "$0")

say() { printf '%s: %s\n' "$PROGRAM" "$*" >&2; }
fail() { local status=$1; shift; say "$*"; exit "$status"; }

need_programs() {
    local program missing=()
    for program; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    ((${#missing[@]} == 0)) || fail 1 "missing: ${missing[*]}; run tools/setup vm"
}

# Runs the rest of the program alone among those that change $VM_DIR. The lock file is opened on a
# descriptor of our own, which children inherit; close it ({LOCK_FD}>&-) for those that outlive us.
take_lock() {
    mkdir -p "$VM_DIR"
    exec {LOCK_FD}>"$VM_DIR/lock"
    flock "$LOCK_FD"
}
drop_lock() { exec {LOCK_FD}>&-; }

is_series() { [[ $1 =~ ^[0-9]+\.[0-9]+$ || $1 == newest ]]; }

# A kernel is complete when its version file is there: it is written last.
has_kernel() { [[ -s $KERNELS_DIR/$1/version ]]; }

# QEMU before 8.1 translates code while another thread writes it: one boot in seven of a kernel with
# two CPUs ends in "Oops: int3". An older one is used with one thread only, or a newer one fetched.
qemu_is_sound() {
    local version
    version=$("$@" --version 2>/dev/null | sed -nE '1s/.* version ([0-9]+\.[0-9]+).*/\1/p')
    [[ -n $version && $(printf '%s\n' 8.1 "$version" | sort -V | head -n 1) == 8.1 ]]
}
