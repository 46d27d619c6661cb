# Each target sets up everything it needs; a fresh machine needs Python >= 3.11 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEEPINV := .venv-deepinv
BROWSER := $(VENV)/.browser
DATA ?= src/flashdiffusion/assets/portrait.png

.PHONY: setup demo app docs notebooks test check clean test-browser test-deepinv deepinv-table

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/flashdiffusion demo --out demo

app: $(STAMP)
	$(BIN)/flashdiffusion app --open

# Into site/, which can be read from disk: no server, no network.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

notebooks: $(STAMP)
	$(BIN)/python docs/notebooks/execute.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -n 2 --dist loadfile

# The page, in a Chromium that is there already, or that apt has; Playwright's own is not downloaded.
$(BROWSER): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	@touch $@

test-browser: $(BROWSER)
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || command -v google-chrome > /dev/null \
	  || { command -v apt-get > /dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || { echo "a Chromium is needed: install chromium (Debian: apt-get install chromium, as root) or Google Chrome"; exit 1; }
	$(BIN)/pytest tests/browser

# The real DeepInverse needs another torch, so it has an environment of its own.
$(DEEPINV)/.installed: pyproject.toml constraints-deepinv.txt
	$(PYTHON) -m venv $(DEEPINV)
	$(DEEPINV)/bin/pip install --quiet --disable-pip-version-check -c constraints-deepinv.txt deepinv torchvision pytest scipy -e .
	@touch $@

test-deepinv: $(DEEPINV)/.installed
	$(DEEPINV)/bin/pytest tests/deepinv

deepinv-table: $(DEEPINV)/.installed
	$(DEEPINV)/bin/python benchmarks/deepinverse.py --data $(DATA)

clean:
	rm -rf $(DEEPINV) $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache
