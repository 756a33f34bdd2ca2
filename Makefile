# Thin verbs; what they do is in CMake and in the scripts they name.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
OLDER_KERNELS ?= 6.12

.PHONY: help build demo test test-unit test-fuzz test-fresh vm-simple-e2e vm-e2e \
        vm-no-driver vm-stress vm-benchmark vm-reset vm-shell storm docs install deb test-install \
        test-deb asan-ubsan tsan tidy

help:  ## this text
	@sed -nE 's/^([a-z0-9 -]+):[^#]*## (.*)/\1|\2/p' Makefile | \
	    while IFS='|' read -r verb text; do printf '  make %-14s %s\n' "$$verb" "$$text"; done

build:  ## the command, at build/release/bin/ashlar
	@tools/setup build
	@tools/build release

demo: build  ## a disk that is made, formatted, mounted, verified and removed again
	@tools/demo

test: test-unit test-fuzz vm-e2e vm-no-driver  ## everything
	@echo "all tests passed"

test-unit: build  ## tests that need no driver
	@tools/setup test
	@vm/fetch --headers
	@tools/build dev
	ctest --preset dev

test-fuzz:  ## every decoder for some seconds
	@tools/setup build fuzz
	@tools/build fuzz
	tests/fuzz/run build/fuzz/bin $(FUZZ_SECONDS)

vm-simple-e2e: build  ## one disk, formatted and mounted, on a real kernel
	@tools/setup vm
	tests/vm/run --kernel newest test_simple

vm-e2e: build  ## all tests on a real kernel; those of the driver on 6.12, too
	@tools/setup vm test
	@tools/build dev
	tests/vm/run_all $(OLDER_KERNELS)

vm-no-driver: build  ## what the command says where the driver is missing
	@tools/setup vm
	tests/vm/run --no-driver no_driver

vm-stress: build  ## disks that go away under load, ROUNDS=10 on each kernel
	@tools/setup vm
	set -e; for kernel in newest $(OLDER_KERNELS); do \
	    ASHLAR_STRESS_ROUNDS=$(ROUNDS) tests/vm/run --kernel $$kernel test_stress; done

vm-benchmark: build  ## a first table: our devices beside the kernel's
	@tools/setup vm
	vm/run -- python3 bench/block_benchmark.py

vm-shell: build  ## a prompt in the VM, the command on PATH
	@tools/setup vm
	vm/run --shell

vm-reset:  ## forget the VM's kernels and caches
	vm/reset

test-fresh:  ## both commands of the README on a bare Debian 12 root
	@tools/setup vm fresh
	tests/fresh/run

docs:  ## the API reference, in build/docs/html; a warning is an error
	@tools/setup docs
	@mkdir -p build/docs
	doxygen docs/api/Doxyfile

install: build  ## the command, libraries, headers, units; PREFIX=/usr/local, DESTDIR as usual
	cmake --install build/release --prefix "$(PREFIX)" --strip

deb: build  ## a Debian package of all that, in build/release
	@tools/setup deb
	cd build/release && cpack

test-install: deb  ## other projects build against it, installed and from the package's files
	tests/install/run

test-deb: deb  ## the package on a bare Debian 12 root: installed by apt, used, removed
	@tools/setup fresh
	tests/install/bare

storm:  ## the engine in SEEDS=100000 simulations; failures and delays are drawn by the seed
	@tools/setup build
	@tools/build release storm
	build/release/bin/storm --seeds $(SEEDS)

asan-ubsan tsan:  ## the unit tests under a sanitizer
	@tools/setup test
	@tools/build $@
	@vm/fetch --headers
	ctest --preset $@ --label-regex unit

tidy:  ## clang-tidy over everything
	@tools/setup build test tidy
	tools/tidy

FUZZ_SECONDS ?= 5
ROUNDS ?= 10
SEEDS ?= 100000
PREFIX ?= /usr/local
