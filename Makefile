# Everything a developer does here; `make` lists it.

TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help run test lint check-metrics queries check-queries fuzz bench install-postgres hedgerow

help: ## List what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

run: install-postgres ## Run every service on this machine, on a Postgres of its own, until Ctrl-C
	cargo build --release --bins
	@exec $(TARGET)/release/hedgerow up

test: install-postgres ## Run all tests on a throwaway Postgres
	cargo build --workspace
	$(TARGET)/debug/hedgerow postgres -- cargo test --workspace
	@if deploy/install.sh promtool; then $(MAKE) --no-print-directory check-metrics; else echo "NOT CHECKED, for want of promtool: the form of /metrics" >&2; fi

check-metrics: hedgerow ## Have promtool check /metrics
	$(TARGET)/debug/hedgerow postgres -- cargo test --package inventory --test faults -- --ignored promtool

lint: ## Check format, lints, and that the data of the checked queries are up to date
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@$(MAKE) --no-print-directory check-queries

queries: install-postgres hedgerow ## Renew the data of the checked queries (.sqlx), after a change to SQL
	$(TARGET)/debug/hedgerow postgres -- migrations/queries renew

check-queries: install-postgres hedgerow ## Check that these data are up to date
	$(TARGET)/debug/hedgerow postgres -- migrations/queries check

fuzz: install-postgres ## Send both services what their API documents allow and forbid (needs python3 and curl)
	cargo build --release --bins
	fuzz/run

bench: install-postgres ## Compare the speed with others
	bench/run

install-postgres: ## Install a Postgres server where there is none
	@deploy/install.sh postgres

hedgerow:
	cargo build --quiet --package hedgerow
