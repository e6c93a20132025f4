# The commands of this repository. `make` alone lists them.
# Only Go, git and make are needed to build and to run the demo; `make test`
# installs what the tests need besides (see .ci/deps).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# ARGS goes to the program that a target ends with: make up ARGS=--help
ARGS ?=
# What `make fuzz-short` spends on each fuzz target.
FUZZTIME ?= 10s

TOOL := go tool -modfile=tools/go.mod

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# The go command stamps the version, or the commit, into the programs itself,
# also where GOFLAGS say otherwise.
.PHONY: build
build: ## build bin/hedgerow and bin/hedgerow-edge
	CGO_ENABLED=0 go build -trimpath -buildvcs=auto -o bin/ ./cmd/hedgerow ./cmd/hedgerow-edge

.PHONY: deps
deps: ## install what the tests need: servers (Debian), clients, a real Vault and ACME server (built)
	./.ci/deps

# hedgerow gets the Ctrl-C itself, drains and exits 0; make then says
# "Interrupt", as it does after every Ctrl-C.
.PHONY: up
up: build ## build, and run the whole mesh with its demo in the foreground (ARGS=...)
	@exec bin/hedgerow up --demo $(ARGS)

# -timeout is for one package; the scripts of test/e2e take the longest.
.PHONY: test
test: deps ## run every test under the race detector (ARGS=-v)
	go test -race -timeout 25m $(ARGS) ./...

.PHONY: e2e
e2e: deps ## run the end-to-end scripts alone, in words
	go test -race -timeout 25m -count=1 -v $(ARGS) ./test/e2e/...

.PHONY: conformance
conformance: deps ## let others' programs judge: gRPC interop, h2spec, WebSocket, MQTT, Redis, PostgreSQL
	go test -count=1 -timeout 20m -v $(ARGS) ./test/conformance/...

# These two start real processes. In full they take twenty minutes and ten;
# ARGS=-short is three and four. F28 makes a cgroup, for which it needs root.
.PHONY: chaos-proxy
chaos-proxy: build ## play the proxy's faults on real processes (ARGS=-short)
	@./test/chaos/deps
	@go build -o bin/chaos ./test/chaos
	@exec bin/chaos $(ARGS) f15 f18 f19 f21 f22 f23 f24 retries f25 f26 f27 f28

# What certificates are worth while they are renewed, their CA changes, Vault is away and
# clocks are wrong: on real processes, Redis and Vault. In full twenty minutes, in short five.
.PHONY: e2e-identity
e2e-identity: deps build ## enrol, rotate identities under load, change the CA, take Vault away (ARGS=-short)
	@./test/chaos/deps
	@go test -count=1 -timeout 20m -v -run '^TestEnrolment' ./test/e2e
	@go build -o bin/chaos ./test/chaos
	@CGO_ENABLED=0 go build -tags clockhook -o bin/clockhook/ ./cmd/hedgerow-edge
	@exec bin/chaos $(ARGS) f12 f13 f14 f15 f16 f17

.PHONY: chaos-quarantine
chaos-quarantine: build ## shut nodes out while they do all that they can (ARGS=-short)
	@./test/chaos/deps
	@./test/chaos/unchecked
	@go build -o bin/chaos ./test/chaos
	@exec bin/chaos $(ARGS) quarantine

# What was acknowledged outlives SIGKILL, power cuts, disks that are full or fail, a service,
# a broker or a network that is away. In full half an hour, in short five minutes. It mounts a
# small file system, for which it needs root, and has syncs fail by strace.
.PHONY: chaos-mqtt
chaos-mqtt: build ## try to have a bridge lose what it acknowledged (ARGS=-short)
	@./test/chaos/deps
	@./test/chaos/hasty
	@go build -o bin/chaos ./test/chaos
	@exec bin/chaos $(ARGS) mqtt-images mqtt-kill mqtt-full mqtt-eio mqtt-down mqtt-broker mqtt-partition

# Who owns Redis, and who has all files of a node: what each tries, and the same without the
# check that stands against it. Ten minutes.
.PHONY: chaos-trust
chaos-trust: build ## attack a mesh from Redis, and from a stolen node (ARGS=-short)
	@./test/chaos/deps
	@./test/chaos/unchecked
	@go build -o bin/chaos ./test/chaos
	@exec bin/chaos $(ARGS) owner thief

.PHONY: slow
slow: build ## let slow clients loose on a gateway and a sidecar (ARGS=-short)
	@./test/chaos/deps
	@go build -o bin/chaos ./test/chaos
	@exec bin/chaos $(ARGS) slow

# HAProxy and nginx are measured beside ours in the same run; docs/performance.md
# says how to read it. ARGS=-short only shows that it works.
BENCHES := bench-chain bench-gateway bench-grpc bench-stream bench-memory bench-table
.PHONY: $(BENCHES)
bench-chain: ## measure two sidecars: CPU, throughput, latency (ARGS=...)
bench-gateway: ## measure a gateway that ends TLS, and the sidecar behind it
bench-grpc: ## measure calls of gRPC through two sidecars
bench-stream: ## measure long bodies through two sidecars, and their memory
bench-table: ## measure a decision among few routes and many, and compiling them
bench-memory: ## measure a sidecar that idles, holds connections, knows many endpoints
$(BENCHES): build
	@./test/bench/deps
	@go build -o bin/bench ./test/bench
	@exec bin/bench $(@:bench-%=%) $(ARGS)

# Under the race detector pools forget, so that this is counted without it.
.PHONY: allocs
allocs: ## hold that forwarding allocates nothing
	go test -count=1 -run 'Allocat' ./mesh/proxy/...

# Each control compiles its package anew; all of them take 10 to 25 minutes.
.PHONY: control
control: ## take the checks out of the code, one at a time: a test must fail (ARGS=-short)
	@go build -o bin/control ./test/control
	@exec bin/control $(ARGS)

.PHONY: lint
lint: ## go vet and golangci-lint
	go vet ./...
	$(TOOL) golangci-lint run ./...

.PHONY: generate
generate: ## make the generated code again
	go generate ./...

# Files that git does not know count too: a generator may have made a new one.
.PHONY: drift
drift: generate ## fail if the generated code is not what the sources give
	@git diff --exit-code -- openapi
	@test -z "$$(git status --porcelain -- openapi)" || { git status --short -- openapi; exit 1; }

.PHONY: fuzz-short
fuzz-short: ## run every fuzz target for FUZZTIME (10s)
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
	  grep -oE '^func Fuzz[A-Za-z0-9_]*' "$$file" | while read -r _ target; do \
	    echo "$$target in $$(dirname "$$file")"; \
	    go test -run='^$$' -fuzz="^$$target$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=10x "$$(dirname "$$file")" </dev/null; \
	  done; \
	done

.PHONY: ci
ci: ## everything that must pass before a change lands
	bash .ci/run
