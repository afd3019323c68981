# Development tasks. `make help` lists them, the most used first.

TARGET := $(or $(CARGO_TARGET_DIR),target)
# What runs without Kubernetes.
LOCAL := --package hedgerow $(foreach name,$(shell deploy/services.sh),--package $(name))

.DEFAULT_GOAL := help
.PHONY: help run test-fast test lint format doc queries check-queries manifests check-manifests version check-metrics check-new check-scripts check-workflows check-dependencies check-chart kind forward images test-cluster e2e test-kind fuzz conformance bench bench-identity soak install-postgres hedgerow

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 27

run: install-postgres ## Run every service on this machine, with its own Postgres, until Ctrl-C
	@[ -x $(TARGET)/release/hedgerow ] || echo "Building the services in release mode: about 5 minutes the first time."
	cargo build --release $(LOCAL)
	@exec $(TARGET)/release/hedgerow up

test-fast: ## Run the unit tests of the crates that changed since main (BASE=COMMIT compares with another commit)
	@.ci/test-fast.sh

test: install-postgres ## Run all tests that need no cluster, on an ephemeral Postgres, and report how long each part took
	@.ci/test.sh

lint: ## Run every static check: format, clippy, docs, generated files, scripts, workflows, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	@$(MAKE) --no-print-directory doc check-queries check-manifests check-scripts check-workflows check-dependencies

format: ## Format the Rust code
	cargo fmt --all

doc: ## Build the Rust documentation; warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps

queries: install-postgres hedgerow ## Regenerate the query data in .sqlx, after a change to SQL
	$(TARGET)/debug/hedgerow postgres -- migrations/queries.sh renew

check-queries: install-postgres hedgerow ## Check that the query data is up to date
	$(TARGET)/debug/hedgerow postgres -- migrations/queries.sh check

manifests: ## Update deploy/operator and the chart after a change to crates/api or services/*/microservice.yaml
	cargo build --quiet --package operator
	$(TARGET)/debug/operator crd >deploy/operator/crd.yaml
	$(TARGET)/debug/operator manifests >deploy/operator/operator.yaml
	$(TARGET)/debug/operator chart helm/hedgerow services/*/microservice.yaml

check-manifests: ## Check that deploy/operator and the chart are up to date
	cargo build --quiet --package operator
	$(TARGET)/debug/operator crd | diff deploy/operator/crd.yaml -
	$(TARGET)/debug/operator manifests | diff deploy/operator/operator.yaml -
	$(TARGET)/debug/operator chart --check helm/hedgerow services/*/microservice.yaml

version: ## Set the version of the workspace, the chart and the images: make version V=0.2.0
	@.ci/version.sh "$(V)"
	@$(MAKE) --no-print-directory manifests

check-scripts: ## Check the shell scripts with shellcheck
	@if command -v shellcheck >/dev/null; then git grep -lE '^#!(/bin/sh|/usr/bin/env bash)$$' | xargs shellcheck --external-sources; else echo "skipped: shellcheck is not installed" >&2; fi

check-workflows: ## Check the GitHub workflows with actionlint
	@if command -v actionlint >/dev/null; then actionlint; else echo "skipped: actionlint is not installed" >&2; fi

check-dependencies: ## Check licenses, bans and sources of dependencies with cargo-deny
	@if command -v cargo-deny >/dev/null; then cargo deny --log-level error check licenses bans sources; else echo "skipped: cargo-deny is not installed" >&2; fi

check-metrics: hedgerow ## Check the format of /metrics with promtool
	$(TARGET)/debug/hedgerow postgres -- cargo test --package inventory --test faults -- --ignored promtool

check-new: install-postgres ## Check that `hedgerow new` creates services that build, pass their tests and run
	deploy/check-new.sh

check-chart: ## Check the chart with helm lint and kube-score, and against deploy/operator
	cargo build --quiet --package operator
	cargo test --quiet --package operator --test chart -- --ignored
	OPERATOR=$(TARGET)/debug/operator deploy/check-chart.sh

kind: ## Create a kind cluster and install a release in its namespace hedgerow (needs kind, helm, kubectl, and docker or podman)
	deploy/kind/up.sh

forward: ## Forward port 8080 to the gateway in the current kube context and namespace, until Ctrl-C
	@deploy/forward.sh gateway:8080

images: ## Build the container images with docker, podman or buildah (`deploy/images.sh help` lists the options)
	@echo "Building the images from one static release build: about 10 minutes the first time."
	@deploy/images.sh

test-cluster: ## Test the operator in the current kube context (needs the images and postgres:15 on the nodes)
	cargo test --package operator --features cluster-tests --test api_server --test cluster

e2e: ## Test the chart end to end in the current kube context (docs/operations.md lists what it needs; ALL=1 adds long cases)
	cargo test --package e2e --features cluster-tests --no-run
	cargo test --package e2e --features cluster-tests --test suite$(if $(ALL), -- --include-ignored)

test-kind: ## Run check-chart, test-cluster and e2e on a kind cluster of their own
	deploy/kind/test.sh

fuzz: ## Run the property tests of the parsers with random input for 5 minutes (MINUTES=60 for an hour)
	@.ci/fuzz.sh

conformance: install-postgres ## Test the services and the gateway against their OpenAPI documents (needs python3 with venv)
	cargo build --workspace
	tests/conformance/run.sh

bench: install-postgres ## Measure the speed against other implementations (about 30 minutes)
	@[ -x $(TARGET)/release/hedgerow ] || echo "Building the services in release mode: about 5 minutes the first time."
	cargo build --release $(LOCAL) --package bench-sqlx
	bench/run

bench-identity: install-postgres ## Measure what tokens and logins cost (about 10 minutes)
	@[ -x $(TARGET)/release/hedgerow ] || echo "Building the services in release mode: about 5 minutes the first time."
	cargo build --release $(LOCAL) --package bench-identity
	cargo build --release --package identity --example verify
	bench/run --identity

soak: install-postgres ## Run a mixed load with faults for an hour, then report and check what must hold (MINUTES=5 for a short one)
	@[ -x $(TARGET)/release/hedgerow ] || echo "Building the services in release mode: about 5 minutes the first time."
	cargo build --release $(LOCAL)
	bench/soak --minutes $(or $(MINUTES),60)

install-postgres: ## Install a Postgres server if there is none
	@deploy/install.sh postgres

hedgerow: ## Build the command line tool `hedgerow` (debug build)
	cargo build --quiet --package hedgerow
