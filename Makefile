DEMO_STEPS = 2_000_000
DEMO_EPISODES = 20

BIN = .venv/bin
INSTALLED = .venv/.installed
BENCH_BIN = .venv-bench/bin
BENCH_INSTALLED = .venv-bench/.installed
# The first of these that is Python 3.11 or 3.12 and can make a virtual environment.
FIND_PYTHON = for python in python3.11 python3.12 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& echo $$python && break; done
PYTHON = $(shell $(FIND_PYTHON))

# One more than there are cores: some tests wait.
TESTERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

unexport PYTHONPATH PYTHONHOME

.PHONY: help demo test test-all lint bench pictures clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(INSTALLED)  ## train run=demo on arena, and score it beside a random agent
	$(BIN)/metta train run=demo env=arena total_timesteps=$(DEMO_STEPS)
	$(BIN)/metta sim run=demo episodes=$(DEMO_EPISODES) random=true

test: lint  ## lint, and the quick tests
	$(BIN)/python -m pytest -n $(TESTERS) --dist worksteal

test-all: lint  ## lint, and all tests: the kill test and the whole fault matrix too
	$(BIN)/python -m pytest -n $(TESTERS) --dist worksteal -m "slow or not slow"

lint: $(INSTALLED)  ## ruff, mypy, and the imports' directions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

pictures: $(INSTALLED)  ## after make demo: draw the README's pictures; needs chromium, chromium-driver
	$(BIN)/python -m docs.make_pictures

bench: $(BENCH_INSTALLED)  ## compare the speed with the peers': 30 quiet minutes; writes benchmarks/results.md
	PYTHONPATH=. $(BENCH_BIN)/python benchmarks/run_all.py

clean:  ## remove .venv and all caches; train_dir stays
	rm -rf .venv .venv-bench .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or 3.12 with its venv module (tried python3.11, python3.12, \
	python3): install one, or give it with make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON): some minutes the first time"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --quiet --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(BENCH_INSTALLED): benchmarks/requirements.txt benchmarks/requirements-puffer.txt
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or 3.12 with its venv module" >&2; exit 1; }
	@echo "setting up .venv-bench with $(PYTHON): some minutes the first time"
	@$(BENCH_BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-bench
	@$(BENCH_BIN)/python -m pip install --quiet --quiet torch==2.13.0
	@$(BENCH_BIN)/python -m pip install --quiet --quiet --requirement benchmarks/requirements.txt
	@$(BENCH_BIN)/python -m pip install --quiet --quiet --no-deps --requirement benchmarks/requirements-puffer.txt
	@touch $@
