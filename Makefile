# latchkey: `make help` lists what there is.
.DEFAULT_GOAL := help
GO ?= go
# Where goroutines meet; the other packages have none of their own.
RACE ?= ./access ./client ./deliveries ./identity ./tasks ./authz ./cache ./notify ./policies/bundle ./server/... ./store ./internal/strictjson
export CGO_ENABLED := 0

.PHONY: help build run test race fuzz lint check deploy-test demo bench bench-large bench-access fleet fleet-large histories docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: ## build bin/latchkey, a static binary
	$(GO) build -trimpath -ldflags '-s -w' -o bin/latchkey ./cmd/latchkey

run: build ## run the server on 127.0.0.1:5539 with its data in ./data (ARGS='--compat-jobflow' adds flags)
	./bin/latchkey serve $(ARGS)

test: ## run all tests
	$(GO) test ./...

deploy-test: ## hold the compose file, the Helm charts and the Terraform example to compose, helm, terraform, and the program
	@command -v terraform >/dev/null || command -v tofu >/dev/null || echo 'terraform is not installed: its example is skipped'
	cd deploy && $(GO) vet ./... && $(GO) test -count=1 ./...

demo: build ## start a server of its own and walk the worked example of the access-key document
	$(GO) run ./internal/demo -bin bin/latchkey

bench: build ## measure side by side: constant handler, latchkey, OPA (WRITE=1 rewrites docs/benchmarks.md)
	$(GO) run ./internal/bench $(if $(WRITE),-write docs/benchmarks.md)
	$(GO) run ./internal/bench -policies $(if $(WRITE),-write docs/benchmarks-policies.md)

bench-large: build ## the same with a million keys: speed, memory, start
	$(GO) run ./internal/bench -large $(if $(WRITE),-write docs/benchmarks-large.md)

fleet: build ## start PostgreSQL, Redis, two control planes, four sidecars and a load, and measure revocation, expiry, outages (WRITE=1 rewrites docs/benchmarks-fleet.md)
	$(GO) run ./internal/fleet $(if $(WRITE),-write docs/benchmarks-fleet.md)

fleet-large: build ## a sidecar of a customer with a million keys and a million grants: round trips, memory, speed
	$(GO) run ./internal/fleet -large $(if $(WRITE),-write docs/benchmarks-fleet-large.md)

bench-access: ## measure requests for access: a history of 100,000, clients that wait, how soon a sidecar allows, races (docs/benchmarks-access.md)
	$(GO) test ./store -run '^$$' -bench Access_History -benchtime 200x
	$(GO) test ./server -run '^$$' -bench Approvals_Waiting -benchtime 1x
	$(GO) test ./cmd/latchkey -run ASidecarLearns -count=1 -v
	$(GO) test ./access -run TestRace -races 1000 -count=1 -timeout 30m -v

histories: ## play 10,000 random histories of a fleet (HISTORIES=10000), none of which may resurrect a right
	$(GO) test ./cache -run TestHistories -histories $(or $(HISTORIES),10000) -timeout 30m -v

fuzz: ## run every fuzz target for a while (FUZZTIME=30s)
	./.ci/fuzz $(or $(FUZZTIME),30s)

# -short plays fewer random walks and takes fewer turns: those look for wrong steps
# rather than for goroutines that meet, and `make test` does them in full.
race: ## run the tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short $(RACE)

lint: ## vet, formatting, and golangci-lint where it is installed
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'gofmt would change these'; exit 1; }
	$(GO) vet ./...
	@if command -v golangci-lint >/dev/null; then GOLANGCI_LINT_CACHE=$(CURDIR)/bin/lint-cache golangci-lint run; else echo 'golangci-lint is not installed: skipped'; fi

check: lint test deploy-test race ## what CI runs

docs: ## write the generated documents anew
	$(GO) run ./cmd/latchkey config reference > docs/configuration.md

clean: ## remove what was built, not the data
	rm -rf bin
