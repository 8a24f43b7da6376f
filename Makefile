# Every target with a `##` line shows up in `make help`.
.DEFAULT_GOAL := help
.PHONY: help messages run demo test lint conformance cluster-test soak mutants loadtest bench bench-peers lock docs site screenshots chart-docs release-check release-notes package python-packages chart-package clean

VENV := .venv
BIN := $(VENV)/bin
# Python 3.11 or newer; choose one by `make PYTHON=/path/to/python3.12 ...`. Builds with profile-guided
# optimization are preferred, then newer versions, then the first on PATH. Each candidate is run, because
# version managers put names on PATH that do not work. The search runs once, when needed.
ifeq ($(origin PYTHON),undefined)
PYTHON = $(eval PYTHON := $(FIND_PYTHON))$(PYTHON)
endif
FIND_PYTHON = $(shell IFS=:; for dir in $$PATH; do \
	for name in python3.13 python3.12 python3.11 python3; do \
	"$${dir:-.}/$$name" -I ojs_cluster/server/interpreter.py 2>/dev/null; done; done \
	| sort -s -k 1,1nr -k 2,2nr | head -n 1 | cut -d ' ' -f 3-)
CORES := $(shell getconf _NPROCESSORS_ONLN)
# Tests wait more than they compute: with fewer processes the cores have nothing to do.
JOBS ?= $(shell echo $$((3 * $(CORES))))
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
PROFILE ?= mixed
URL ?= http://localhost:8080

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## install, then run everything on this machine (Ctrl-C stops it)
	@exec $(BIN)/ojs-cluster dev

demo: $(VENV)/.run ## the same with a living example: jobs, workers, failures (data in .ojs-demo)
	@exec $(BIN)/ojs-cluster dev --demo

test: $(VENV)/.dev ## install, then run all tests (JOBS=6 in parallel; TESTS=tests/core for a part)
	OJS_TEST_VARIANTS=some $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

lint: $(VENV)/.dev ## run ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

conformance: $(VENV)/.dev ## run the conformance suites against URL=http://host:port
	OJS_CONFORMANCE_URL=$(URL) $(BIN)/pytest tests/conformance

cluster-test: $(VENV)/.dev ## test the chart on a kind cluster made for it (needs docker, kind, kubectl, helm)
	PYTEST=$(BIN)/pytest tests/cluster/kind.sh

soak: $(VENV)/.dev ## run the long variants of the tests
	OJS_KILL_ROUNDS=20 OJS_CHAOS_SECONDS=7200 $(BIN)/pytest -m soak -o faulthandler_timeout=0
	$(BIN)/pytest -n $(JOBS) --dist loadfile
	if command -v redis-server; then OJS_TEST_SERVER=redis-server $(BIN)/pytest -n $(JOBS) --dist loadfile tests/store; fi
	$(BIN)/python -m tests.mutants -j $(CORES)

mutants: $(VENV)/.dev ## insert bugs, one at a time, and check that tests fail (AREAS="lua redis" for a part)
	$(BIN)/python -m tests.mutants -j $(CORES) $(AREAS)

loadtest: $(VENV)/.dev ## run a short load test of the whole system (PROFILE=spike; URL=... for another server)
	$(BIN)/python -m loadtest.local --profile $(PROFILE) $(if $(filter command line,$(origin URL)),--host $(URL))

BENCH ?= --quick
bench: export PEER := $(PEER)
bench: $(VENV)/.loadtest ## run short benchmarks (BENCH= for full ones; PEER=http://host:port adds a server to those of lifecycle and latency)
	@for file in loadtest/bench/[a-z]*.py; do \
		module=$$(echo $${file%.py} | tr / .); \
		echo "== $$module"; $(BIN)/python -m $$module $(BENCH) || exit 1; \
	done

bench-peers: $(VENV)/.dev ## compare with other job libraries, which it installs into .cache (BENCH= in full; BENCH_OUT=docs/performance.md)
	$(BIN)/python -m loadtest.peers $(BENCH) $(if $(BENCH_OUT),--out $(BENCH_OUT))

lock: $(VENV)/.uv ## pin the packages of the image and of uv sync (UPGRADE=--upgrade for newer versions)
	$(BIN)/uv lock --quiet $(UPGRADE)
	$(COMPILE) $(PROJECTS) --extra otel --extra oidc --extra ctl --output-file requirements/runtime.lock
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb")); \
		print("\n".join(project["build-system"]["requires"]))' \
		| $(COMPILE) - --output-file requirements/build.lock

docs: chart-docs ## update generated pages
	$(BIN)/python -m tests.readme.configuration
	$(BIN)/python -m tests.readme.api_reference

site: $(VENV)/.dev ## build the documentation as a site in site/, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

screenshots: $(VENV)/.dev ## take the pictures of the dashboard in docs/img again (needs chromium); ALL=folder: of all pages
	$(BIN)/python -m tests.ui.screenshots $(if $(ALL),--all $(ALL),docs/img)

messages: $(VENV)/.dev ## collect the texts of the dashboard in its languages, in which new ones are empty then
	$(BIN)/python -m tests.ui.languages.collect

release-check: $(VENV)/.dev ## check what only a release needs: a translation of every text of the dashboard
	$(BIN)/python -m tests.ui.languages.collect --check

release-notes: $(VENV)/.dev ## write the section of the changelog as the notes of the release in dist/
	$(BIN)/python -m tests.distributions.notes dist/notes.md

chart-docs: $(VENV)/.dev ## update the chart's README and schema
	$(BIN)/python -m tests.helm.values_table

package: python-packages chart-package ## build, check and try all of a release in dist/, reproducibly
	$(BIN)/python -m tests.helm.package dist image

python-packages: $(VENV)/.dev ## build wheel and sdist of both Python packages in dist/, and run a job with them
	$(BIN)/python -m tests.distributions.build dist

chart-package: $(VENV)/.dev ## build the chart in dist/
	$(BIN)/python -m tests.helm.package dist chart

# A lock file names no index and no folder, so it works behind any mirror.
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet $(UPGRADE) \
	--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links

clean: ## remove the virtual environment and caches (jobs in .ojs-data stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site *.egg-info \
		clients/python/build clients/python/src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the virtual environment; a stamp is outdated only when a pyproject.toml changes -----------

PROJECTS := pyproject.toml clients/python/pyproject.toml

$(VENV)/.run: $(PROJECTS) | $(BIN)/python
	$(PIP) -e '.[embedded]' -e 'clients/python[ctl]'
	@touch $@

$(VENV)/.dev: $(PROJECTS) | $(BIN)/python
	$(PIP) -e '.[dev]' -e 'clients/python[ctl,testing]'
	@echo "helm for the tests: $$($(BIN)/python -m tests.helm.tools)"
	@touch $@ $(VENV)/.run

$(VENV)/.loadtest: pyproject.toml $(VENV)/.dev
	$(PIP) -e '.[dev,loadtest]'
	@touch $@

$(VENV)/.uv: pyproject.toml $(VENV)/.dev
	$(PIP) -e '.[dev,lock]'
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "ojs-cluster needs Python 3.11 or newer, and PATH has none" \
			"($$(python3 --version 2>&1)). Install it, or pass it: make PYTHON=/path/to/python3"; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create virtual environments. On Debian and Ubuntu:" \
			"sudo apt install python3-venv"; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
