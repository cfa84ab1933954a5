# The two commands of this repository, `make book` and `make test`, and the benchmark, in an environment of their own (.venv).

PROFILE ?= demo
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed

.PHONY: help book test bench clean

help:
	@echo "make book [PROFILE=demo]   compute what is out of date and build the site in _build/html"
	@echo "make test                  linter, unit tests, slow tests"
	@echo "make bench [FULL=1]        how fast everything is here, beside the floor; make book then shows it"
	@echo "make clean                 remove _build (the environment in .venv stays)"

book: $(INSTALLED)
	@$(VENV)/bin/perceptual-ball book $(PROFILE)

test: $(INSTALLED)
	@echo "== ruff"
	@$(VENV)/bin/ruff check .
	@echo "== unit tests"
	@OMP_NUM_THREADS=1 $(VENV)/bin/pytest -m "not slow" -n auto
	@echo "== slow tests (minutes)"
	@$(VENV)/bin/pytest -m slow

bench: $(INSTALLED)
	@mkdir -p _build
	@$(VENV)/bin/pytest benchmarks --verbosity=0 --benchmark-quiet --benchmark-json=_build/speed.json \
		$(if $(FULL),--scale=full)

clean:
	rm -rf _build

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	@echo "== making the environment in $(VENV) (the first time this downloads PyTorch: minutes)"
	@$(PYTHON) -m venv $(VENV)
	@if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	$(VENV)/bin/pip install $$quiet --disable-pip-version-check \
		--constraint requirements.lock --editable ".[book,ray,test,bench]"
	@touch $@
