# Thin verbs; what they do is in CMake and in the scripts they name.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
OLDER_KERNELS ?= 6.12

.PHONY: help build demo test test-unit test-fuzz test-fresh vm-simple-e2e vm-e2e \
        vm-no-driver vm-stress bench vm-benchmark micro-bench vm-start-time budget \
        budget-write vm-reset vm-shell storm docs install deb test-install \
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

bench: build  ## our devices beside the kernel's, on this machine; BENCH='--workloads full ...'
	@tools/setup test
	PATH="$(CURDIR)/build/release/bin:$$PATH" python3 bench run $(BENCH) \
	    $(if $(REPORT),--report "$(REPORT)" --command 'make bench BENCH="$(BENCH)"')

vm-benchmark: build  ## the same in the VM; ICOUNT=1 counts instructions, REPORT=PATH writes a page
	@tools/setup vm test
	mkdir -p build/vm/results
	vm/run $(if $(ICOUNT),--icount) --timeout 5400 -- python3 bench run $(BENCH) \
	    $(if $(REPORT),--report /run/ashlar/results/report \
	    --command 'make vm-benchmark$(if $(ICOUNT), ICOUNT=1) BENCH="$(BENCH)"')
	$(if $(REPORT),mkdir -p "$(dir $(REPORT))" && cd build/vm/results && \
	    cp report.json "$(abspath $(REPORT)).json" && cp report.html "$(abspath $(REPORT)).html")

micro-bench:  ## what the parts of a request's way cost: time, and instructions counted
	@tools/setup bench
	@tools/build bench micro_benchmark rounds
	build/bench/bin/micro_benchmark
	bench/micro/count build/bench/bin/rounds

vm-start-time:  ## how long a device takes to come, against the bare commands; ICOUNT=1 counts
	@tools/setup bench vm
	@tools/build bench start_time
	vm/run $(if $(ICOUNT),--icount) --cpus 4 -- build/bench/bin/start_time 4 128

budget: build  ## fails when an I/O costs more than bench/budget.json says
	@tools/setup vm test
	tests/vm/budget

budget-write: build  ## makes what an I/O costs now the budget
	@tools/setup vm test
	tests/vm/budget --write

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
BENCH ?= --repetitions 3 --system-calls
PREFIX ?= /usr/local
