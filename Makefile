# Each target sets up its own virtual environment first. A fresh machine needs Python 3.11 or newer with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test interop interop-soak check docs bench soak clean

demo: $(VENV)/run.stamp
	$(BIN)/cpg demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore tests/interop
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/interop -m "not long"

interop-soak: $(VENV)/dev.stamp
	$(BIN)/python -m tests.interop.soak --minutes 20

interop: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests/interop
	$(BIN)/python -m pytest tests/interop/test_membership.py tests/interop/test_flood.py --served

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site's sources are symbolic links to the pages, and to the files that these link to, in the same places as here.
# So the same relative links work on a code host and in the site.
SITE := build/site-source
docs: $(VENV)/docs.stamp
	rm -rf $(SITE) build/site
	mkdir -p $(SITE)/bench $(SITE)/tests/examples
	ln -s $(addprefix $(CURDIR)/,README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs examples contrib totem cpg cluck) $(SITE)
	ln -s $(CURDIR)/bench/RESULTS.md $(CURDIR)/bench/plots $(SITE)/bench
	ln -s $(CURDIR)/tests/examples/test_dictionary.py $(SITE)/tests/examples
	$(BIN)/mkdocs build --quiet
	@! grep -rE '<(script|link|img|iframe)[^>]*(src|href)="(https?:)?//' build/site --include='*.html' || \
	  { echo "make: these are fetched when a page is viewed" >&2; exit 1; }
	@echo "the documentation is in build/site/index.html"

# As root, and where Corosync is installed, it is measured too. make bench BENCH='--only latency,loss' measures parts;
# BENCH=--help lists them.
bench: $(VENV)/bench.stamp
	$(BIN)/python -m bench $(BENCH)

# The second and third are on real sockets, in namespaces: as root.
soak: $(VENV)/run.stamp
	$(BIN)/python -m totem.testing.soak --seeds 0:1000
	$(BIN)/python -m totem.testing.detection --what load --hours 1 --jobs $(WORKERS)
	$(BIN)/python -m totem.testing.detection --what embedded --hours 10 --jobs $(WORKERS)
	$(BIN)/python -m tests.interop.alarms --minutes 60
	$(BIN)/python -m tests.interop.partial

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: Python 3.11 or newer is needed ('$(PYTHON)' is not). Install it, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: Python's venv module is needed. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/bench.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ $(VENV)/run.stamp

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/run.stamp
