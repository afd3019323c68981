# Everything a developer does here; `make` lists it.

TARGET := $(or $(CARGO_TARGET_DIR),target)
# What runs without Kubernetes.
LOCAL := --package hedgerow --package users --package inventory --package gateway

.DEFAULT_GOAL := help
.PHONY: help run kind forward test test-cluster e2e lint check-metrics check-chart queries check-queries manifests check-manifests fuzz images bench install-postgres hedgerow

help: ## List what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

run: install-postgres ## Run every service on this machine, on a Postgres of its own, until Ctrl-C
	cargo build --release $(LOCAL)
	@exec $(TARGET)/release/hedgerow up

kind: ## Run a release on kind, from the images to the first answer (needs kind, docker or podman, helm)
	deploy/kind/up

forward: ## Forward port 8080 to the gateway of the current kube context and namespace, until Ctrl-C
	@deploy/forward gateway:8080

test: install-postgres ## Run all tests on a throwaway Postgres
	cargo build --workspace
	$(TARGET)/debug/hedgerow postgres -- cargo test --workspace
	@if deploy/install.sh promtool; then $(MAKE) --no-print-directory check-metrics; else echo "NOT CHECKED, for want of promtool: the form of /metrics" >&2; fi

check-metrics: hedgerow ## Have promtool check /metrics
	$(TARGET)/debug/hedgerow postgres -- cargo test --package inventory --test faults -- --ignored promtool

test-cluster: ## Test the operator in the current kube context, whose nodes need the images and postgres:15
	cargo test --package operator --features cluster-tests --test api_server --test cluster

e2e: ## Test the chart end to end in the current kube context (docs/OPERATIONS.md says what the nodes need)
	cargo test --package e2e --features cluster-tests --no-run
	cargo test --package e2e --features cluster-tests --test suite

check-chart: ## Check the chart with helm lint and kube-score
	cargo build --quiet --package operator
	OPERATOR=$(TARGET)/debug/operator deploy/check-chart

lint: ## Check format, lints, and that what is generated is up to date
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	@$(MAKE) --no-print-directory check-queries check-manifests

queries: install-postgres hedgerow ## Renew the data of the checked queries (.sqlx), after a change to SQL
	$(TARGET)/debug/hedgerow postgres -- migrations/queries.sh renew

check-queries: install-postgres hedgerow ## Check that these data are up to date
	$(TARGET)/debug/hedgerow postgres -- migrations/queries.sh check

manifests: ## Renew what follows from the kind in deploy/operator and the chart, after a change to it or to what runs the operator
	cargo build --quiet --package operator
	$(TARGET)/debug/operator crd >deploy/operator/crd.yaml
	cp deploy/operator/crd.yaml helm/hedgerow/crds/microservices.yaml
	$(TARGET)/debug/operator manifests >deploy/operator/operator.yaml
	@schema=$$($(TARGET)/debug/operator values-schema helm/hedgerow/values.schema.json) && printf '%s\n' "$$schema" >helm/hedgerow/values.schema.json

check-manifests: ## Check that they are up to date
	cargo build --quiet --package operator
	$(TARGET)/debug/operator crd | diff deploy/operator/crd.yaml -
	$(TARGET)/debug/operator crd | diff helm/hedgerow/crds/microservices.yaml -
	$(TARGET)/debug/operator manifests | diff deploy/operator/operator.yaml -
	$(TARGET)/debug/operator values-schema helm/hedgerow/values.schema.json | diff helm/hedgerow/values.schema.json -

images: ## Build the container images, with docker, podman or buildah (`deploy/images help` has more)
	@deploy/images

fuzz: install-postgres ## Send both services, and the gateway, what their API documents allow and forbid (needs python3 and curl)
	cargo build --release $(LOCAL)
	fuzz/run

bench: install-postgres ## Compare the speed with others
	cargo build --release $(LOCAL) --package bench-sqlx
	bench/run

install-postgres: ## Install a Postgres server where there is none
	@deploy/install.sh postgres

hedgerow:
	cargo build --quiet --package hedgerow
