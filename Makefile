# Two commands matter: `make run` flies the demo mission, `make test` runs the tests.
# Both create .venv on first use; nothing else has to be installed by hand.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
    $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run-ready
TEST_STAMP := $(VENV)/.test-ready
PYTEST_ARGS ?=
DEMO_ARGS ?=
FAULTS_ARGS ?=
BENCH_ARGS ?=
MINUTES ?= 30
SOAK_ARGS ?=

.PHONY: help run test bench faults soak lint shell proto clean
help:
	@echo "make run     set up and fly the demo mission; writes out/demo/report.html"
	@echo "make test    set up and run all tests        (PYTEST_ARGS='-k ring' narrows it)"
	@echo "make bench   measure; writes out/bench/report.html (BENCH_ARGS='--quick' or '--only dish')"
	@echo "make faults  inject the fault catalogue    (FAULTS_ARGS='--only 27 --json' narrows it)"
	@echo "make soak    load and random faults         (MINUTES=30; SOAK_ARGS='--batches 100000' for memory)"
	@echo "make lint    ruff and mypy"
	@echo "make shell   the emulated payload with a CSH-like shell on it"
	@echo "make proto   regenerate dipp/pb from proto/"
	@echo "make clean   remove what make created (.venv, out, caches)"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11, < 3.14 found; install one or say make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(RUN_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(TEST_STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,dev]"
	@touch $@ $(RUN_STAMP)

run: $(RUN_STAMP)
	$(BIN)/payload demo --out out/demo $(DEMO_ARGS)

test: $(TEST_STAMP)
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

bench: $(RUN_STAMP)
	$(BIN)/python -m bench $(BENCH_ARGS)

faults: $(RUN_STAMP)
	$(BIN)/dipp faults $(FAULTS_ARGS)

soak: $(RUN_STAMP)
	$(BIN)/dipp soak --minutes $(MINUTES) $(SOAK_ARGS)

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy csp dipp dish sim modules tools bench

shell: $(RUN_STAMP)
	$(BIN)/payload up --shell

proto: $(TEST_STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[proto]"
	$(BIN)/python tools/make_proto.py

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
