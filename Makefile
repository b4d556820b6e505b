# make run: the demo.  make test: the tests.  Each does all it needs on a fresh Debian 12, and nothing twice.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
FORMAT_CSS := $(BIN)/css-beautify --indent-size=2 --space-around-combinator --end-with-newline
NODE_CLIENT := tests/interop/node
APT := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq

# Pinned with hashes, and without what belongs to the machine that resolved them.
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options
# Set in containers and by some editors: the program, which tests start some hundred times, would be compiled each time.
unexport PYTHONDONTWRITEBYTECODE
# Three on two cores, as many tests wait for a server. Neighbours stay together: those of a file may share a browser.
PYTEST := $(BIN)/python -m pytest -n 3 --dist worksteal
# What needs a browser, other people's SMPP clients, or half a second or more.
NOT_FAST := slow or browser or interop or faults

.PHONY: help setup run test test-fast test-all coverage lint format lock binary clean packages

help:
	@echo "make run        the demo: portal at http://127.0.0.1:8000, SMPP at 127.0.0.1:2775 and :3550 (TLS)"
	@echo "make test-fast  what one runs between two edits: no browsers, no foreign clients"
	@echo "make test       every test but the long counts; what CI runs"
	@echo "make test-all   every test, with the long counts of faults, money, fuzzing and the crawler"
	@echo "make coverage   the tests with branch coverage, in build/coverage/"
	@echo "make lint       ruff, mypy, djlint, css-beautify, import-linter"
	@echo "make format     Python, templates and styles in the form that make lint asks for"
	@echo "make lock       requirements*.lock from requirements*.txt"
	@echo "make binary     dist/smpp-portal: the whole program in one file"
	@echo "make setup      .venv with the requirements, nothing started"
	@echo "make clean      removes all of that, never data/"

setup: $(VENV)/.runtime

run: $(VENV)/.runtime
	@echo "Starting the demo"
	@exec $(BIN)/python app.py demo

test: $(VENV)/.development packages $(NODE_CLIENT)/node_modules/.installed
	$(PYTEST)

test-fast: $(VENV)/.development
	$(PYTEST) -m "not ($(NOT_FAST))" $(addprefix --ignore=tests/,e2e interop faults money)

test-all: test
	$(BIN)/python -m tests.faults 50
	$(BIN)/python -m tests.money 20
	bench/fuzz
	CRAWLER_VALUES=all $(BIN)/python -m pytest tests/web/core/test_crawler.py

coverage: $(VENV)/.development packages $(NODE_CLIENT)/node_modules/.installed
	$(PYTEST) --cov --cov-report=html:build/coverage/html --cov-report=term

lock: $(VENV)/.development
	$(LOCK) --output-file requirements.lock requirements.txt
	$(LOCK) --constraint requirements.lock --output-file requirements-dev.lock requirements-dev.txt

lint: $(VENV)/.development
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/djlint --lint --quiet templates
	$(BIN)/djlint --check --quiet templates
	$(FORMAT_CSS) static/app.css | cmp - static/app.css
	@# It has no option that keeps it quiet where all is well.
	@said=$$($(BIN)/lint-imports --no-logo --no-cache) || { echo "$$said"; exit 1; }

format: $(VENV)/.development
	$(BIN)/ruff format --quiet .
	$(BIN)/djlint --reformat --quiet templates
	@$(FORMAT_CSS) --replace static/app.css >/dev/null

binary: dist/smpp-portal

clean:
	rm -rf $(VENV) $(NODE_CLIENT)/node_modules build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# Debian's python3 comes without what makes virtual environments.
$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(APT) update && $(APT) install -y python3-venv >/dev/null; }
	@echo "Creating $(VENV)/"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock | $(BIN)/python
	@echo "Installing the packages of requirements.lock in $(VENV)/, once: about a minute"
	@$(PIP) -r requirements.lock
	@touch $@

$(VENV)/.development: requirements-dev.lock | $(BIN)/python
	@echo "Installing the packages of requirements-dev.lock in $(VENV)/, once: two minutes or so"
	@$(PIP) -r requirements-dev.lock
	@touch $(VENV)/.runtime $@

# The SMPP client that is written in JavaScript. Nothing of it runs while it is installed.
$(NODE_CLIENT)/node_modules/.installed: $(NODE_CLIENT)/package.json $(NODE_CLIENT)/package-lock.json | packages
	@npm ci --prefix $(NODE_CLIENT) --loglevel error --no-audit --no-fund --ignore-scripts >/dev/null
	@touch $@

# What tests and the binary need beyond Python: browsers, SMPP clients and servers, and what PyInstaller takes libraries apart with.
packages:
	@missing="$$(PYTHON=$(PYTHON) packaging/missing-packages)"; \
	if [ -n "$$missing" ]; then echo "Installing$$missing"; \
		$(APT) update && $(APT) install -y --no-install-recommends $$missing >/dev/null; fi

SOURCES := app.py $(shell find portal templates static packaging -type f ! -name '*.pyc')

dist/smpp-portal: $(SOURCES) $(VENV)/.development | packages
	$(BIN)/pyinstaller --log-level ERROR --distpath dist --workpath build packaging/smpp-portal.spec
	@touch $@
