# Everything here works on a fresh Debian machine with Go. The demo needs nothing
# else. What the tests need, `make test` installs as root; otherwise it names the
# one command to run.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHSTAT   := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
# What the tests need from the system: the stock kernels of the kernel lab run
# under QEMU, and the race detector needs a C compiler.
PACKAGES    := qemu-system-x86 busybox-static ipvsadm iproute2 nftables cpio kmod xz-utils gcc libc6-dev

FUZZ_COUNT  ?= 10000000x
BENCH       ?= .
BENCH_TIME  ?= 300ms
BENCH_COUNT ?= 5
COMPARE_COUNT ?= 10
PACKAGE     ?= ./bench
SOAK_TIME   ?= 10m
# As root a test that cannot run is a failure, not a skip.
REQUIRE     ?= $(if $(filter 0,$(shell id -u)),1,)

.PHONY: build demo test test-kernel race soak fuzz bench bench-once bench-kernel bench-report bench-compare lint clean setup

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ipvsync ./cmd/ipvsync

demo: build
	bin/ipvsync demo

# All tests, those against stock Linux kernels included, then all but those again
# under the race detector, and the rings with the detection of misuse.
test: setup
	IPVSYNC_REQUIRE=$(REQUIRE) $(GO) test -timeout 20m ./...
	IPVSYNC_REQUIRE=$(REQUIRE) $(GO) test -timeout 20m -race -short ./...
	$(GO) test -short -tags ringdebug ./ring .
	$(GO) test -short -tags purego ./ring ./encoder .
	cd bench/report && $(GO) test ./...
	$(MAKE) bench-once

# The tests against stock Linux kernels alone.
test-kernel: setup
	IPVSYNC_REQUIRE=$(REQUIRE) $(GO) test -timeout 20m -v ./encoder/kernellab
	IPVSYNC_REQUIRE=$(REQUIRE) $(GO) test -timeout 20m -v -run '^TestKernel' ./...

race: setup
	IPVSYNC_REQUIRE=$(REQUIRE) $(GO) test -timeout 30m -race ./...

# AF_XDP at full rate for SOAK_TIME, with links that flap and devices that vanish:
# nothing may be lost but what the counters say. `make test` has it for seconds.
soak:
	XSK_SOAK=$(SOAK_TIME) IPVSYNC_REQUIRE=$(REQUIRE) $(GO) test -timeout 24h -count 1 -v -run '^TestXDPSoak$$' ./xsk

# Each fuzz target for FUZZ_COUNT inputs, or a time such as 30s.
fuzz:
	set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_COUNT) $$package; \
		done; \
	done

# Ours beside its opponents: minutes. BENCH=Latency for a part of it.
bench:
	$(GO) test -short -run '^$$' -bench '$(BENCH)' -benchtime $(BENCH_TIME) -timeout 60m $(PACKAGE)

# Every benchmark of the project, once, so that none rots.
bench-once:
	$(GO) test -short -run '^$$' -bench . -benchtime 1x -timeout 10m ./...

# A stock kernel as an opponent, in the kernel lab: ratios and counts.
bench-kernel: setup
	IPVSYNC_REQUIRE=$(REQUIRE) $(GO) test -run '^$$' -bench '^BenchmarkKernel' -benchtime 1x -timeout 20m -v ./bench

# Everything that the page shows, measured anew; on a quiet machine, as root. How
# long that takes: docs/benchmarks.md. With REPORT=-render, tables and plots of the
# last run again; with REPORT='-only engine', a part.
bench-report: setup
	cd bench/report && $(GO) run . -root ../.. -count $(BENCH_COUNT) -benchtime $(BENCH_TIME) $(REPORT)

# This tree against another revision, by turns: make bench-compare BASE=main~3
# BENCH=GSOTx. The benchmarks are those of either revision; what only one has is
# shown without comparison.
bench-compare:
	@test -n "$(BASE)" || { echo "say which revision to compare with: make bench-compare BASE=rev [BENCH=regexp] [PACKAGE=./bench]"; exit 2; }
	bench/compare.sh '$(BASE)' '$(PACKAGE)' '$(BENCH)' $(BENCH_TIME) $(COMPARE_COUNT) $(BENCHSTAT)

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "gofmt would change these files: run gofmt -w ."; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	cd bench/report && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...

clean:
	rm -rf bin
	$(GO) clean -testcache

setup:
	@missing=; for p in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ]; then \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	else \
		echo "some tests will be skipped; to run them all, as root: apt-get install --no-install-recommends$$missing"; \
	fi
