# The two commands of this repository, `make book` and `make test`, and the benchmark, in an environment of their own (.venv).

PROFILE ?= demo
PYTHON ?= python3
VENV := .venv

# Many containers set it. Then every kernel and every worker would compile PyTorch's modules anew: four times the import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help book pdf test bench clean

help:
	@echo "make book [PROFILE=demo]   compute what is out of date and build the site in _build/html"
	@echo "make pdf [PROFILE=demo]    the same, and the book as one file: _build/perceptual-ball.pdf and .epub"
	@echo "make test                  linter, types, tests"
	@echo "make bench [FULL=1]        how fast everything is here, beside the floor; make book then shows it"
	@echo "make clean                 remove _build (the environment in .venv stays)"

book: $(VENV)/book.installed
	@$(VENV)/bin/perceptual-ball book $(PROFILE)

pdf: $(VENV)/book.installed
	@$(VENV)/bin/perceptual-ball book $(PROFILE) --pdf

test: $(VENV)/test.installed
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n auto --dist loadfile --no-loadscope-reorder

bench: $(VENV)/bench.installed
	@mkdir -p _build
	@$(VENV)/bin/pytest benchmarks --verbosity=0 --benchmark-quiet --benchmark-json=_build/speed.json \
		$(if $(FULL),--scale=full)

clean:
	rm -rf _build

# One environment grows with what is asked of it: the extras [book], [book,test] or [book,bench].
$(VENV)/%.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	@echo "== installing perceptual-ball[$*] in $(VENV) (the first time this downloads PyTorch: minutes)"
	@$(PYTHON) -m venv $(VENV)
	@if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	$(VENV)/bin/pip install $$quiet --no-compile --disable-pip-version-check \
		--constraint requirements.lock --editable ".[book,$*]"
	@touch $(VENV)/book.installed $@
