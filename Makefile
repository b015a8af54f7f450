# Short names for the commands that README.md, CONTRIBUTING.md and .ci/run show.

FUZZTIME ?= 1m
STORMTIME ?= 20s

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 8

.PHONY: demo
demo: ## list, update and change, on a fake server
	go run ./examples/quickstart

.PHONY: test
test: ## run the tests of all modules
	go test work

.PHONY: race
race: ## run them with the race detector
	go test -race $$(go list work | grep -v /outbox/storm)

.PHONY: ci
ci: ## run all checks, as CI does
	bash .ci/run

.PHONY: bench
bench: ## measure the speed beside other clients
	go run ./benchmarks

.PHONY: fuzz
fuzz: ## fuzz the decoders, for FUZZTIME each
	go test -run '^$$' -fuzz FuzzDecode -fuzztime $(FUZZTIME) ./internal/stockjson
	go test -run '^$$' -fuzz FuzzResponse -fuzztime $(FUZZTIME) .

.PHONY: storm
storm: ## kill the outbox's processes and databases, for STORMTIME
	go test ./outbox/storm -run TestStorm -storm.for $(STORMTIME)

.PHONY: tidy
tidy: ## tidy all modules
	go run ./internal/modules tidy
