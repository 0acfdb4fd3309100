# Two commands matter: `make demo` and `make test`. Both make .venv first; the second time that takes no time.
#
# PYTHON  the Python 3.11+ that makes the environment
# TORCH   what pip installs first: the PyTorch build of your choice (README, "Choosing the PyTorch build")
# WORKERS how many processes share the tests (logical: one for each core that the system counts; 0: none, to see a test's output while it runs)
# ARGS    goes to `glyphflow demo`, for example: make demo ARGS="--pictures ~/Pictures"
PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= logical
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PINS := pyproject.toml constraints.txt requirements.txt requirements-no-deps.txt

# Workers compute with one thread each; a file's tests stay together, for they share what takes long to make.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# The types are checked beside the tests, and what that says comes below theirs.
BESIDE = @beside() { \
	  log=$$(mktemp); $(BIN)/mypy > $$log 2>&1 & types=$$!; \
	  "$$@"; tests=$$?; \
	  wait $$types; types=$$?; echo "mypy: $$(cat $$log)"; rm -f $$log; \
	  [ $$tests -eq 0 ] && [ $$types -eq 0 ]; \
	}; beside env

.PHONY: demo test check lint types clean venv

demo: .venv/.demo
	$(BIN)/glyphflow demo $(ARGS)

test: .venv/.dev lint
	$(BESIDE) $(PYTEST) --durations=50

check: .venv/.dev lint
	$(BESIDE) $(PYTEST) --durations=10 -m "not slow"

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.dev
	$(BIN)/mypy

venv: .venv/.demo

# The stamps are newer than the files that say what to install, or the step runs again.
.venv/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"GlyphFlow needs Python 3.11 or newer and $(PYTHON) is {sys.version.split()[0]}; run: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	@echo "Installing PyTorch and the pinned packages into .venv (a few minutes the first time) …"
	$(PIP) -c constraints.txt $(TORCH)
	@touch $@

.venv/.demo: .venv/.torch $(PINS)
	$(PIP) -c constraints.txt -r requirements.txt
	$(PIP) --no-deps -r requirements-no-deps.txt
	@touch $@

.venv/.dev: .venv/.demo
	$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist src/*.egg-info
