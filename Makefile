# Every command sets up .venv itself: make and Python 3.11 or newer are all a machine needs.

ARGS ?=
# Tests mostly wait for servers to start and stop, so two workers pay even on one core.
WORKERS ?= 2
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
BIN := .venv/bin
READY := .venv/.ready
# Of `make last-night`: the nightly run to take (default: the last that finished), and where to.
RUN ?=
NIGHT := .invariants/last-night

.DEFAULT_GOAL := help
.PHONY: help setup invariants mutants gate last-night test slow false-alarms lint bench history clean

help:
	@echo 'make invariants   search for violations of the schema at its newest revision'
	@echo '                  (ARGS="--revision documented --seed 7")'
	@echo 'make mutants      which broken schemas would be noticed? (a quarter of an hour)'
	@echo 'make gate         may this schema be released? writes report/'
	@echo 'make last-night   replay what the nightly workflow kept (needs gh, the GitHub CLI)'
	@echo 'make test         run the tests (ARGS="-k servers")'
	@echo 'make slow         run the tests that take minutes, or need what few machines have'
	@echo 'make false-alarms search for alarms where every promise holds (two hours)'
	@echo 'make lint         check style, format, types and which way imports run'
	@echo 'make bench        print how fast it is'
	@echo 'make history      bring the tables of docs/findings.md up to date (a quarter of an hour)'
	@echo 'make clean        remove what the commands above made: .venv, caches, artifacts'

setup: $(READY)

# Violations end with status 1, which make announces as an error of its own.
invariants: $(READY)
	@status=0; $(BIN)/python -m invariants run --profile ci $(ARGS) || status=$$?; \
	if [ $$status = 1 ]; then \
	  echo; echo 'The findings above are the result: the schema breaks promises of invariants.toml.'; \
	  echo 'Nothing went wrong with the tool; "Error 1" below is how make passes on exit status 1.'; \
	fi; exit $$status

mutants: $(READY)
	@$(BIN)/python -m invariants mutants $(ARGS)

gate: $(READY)
	@$(BIN)/python -m invariants gate $(ARGS)

last-night: $(READY)
	@command -v gh >/dev/null || { \
	  echo 'make: gh, the GitHub CLI, is not installed; download the artifacts failed-* of the' >&2; \
	  echo 'nightly run by hand, then: $(BIN)/invariants replay FOLDER/*.json' >&2; exit 1; }; \
	run='$(RUN)'; \
	[ "$$run" ] || run=$$(gh run list --workflow nightly.yml --status completed --limit 1 \
	  --json databaseId --jq '.[].databaseId') || exit; \
	[ "$$run" ] || { echo 'make: no run of nightly.yml has finished yet' >&2; exit 1; }; \
	rm -rf $(NIGHT) && mkdir -p $(NIGHT) || exit; \
	gh run download "$$run" --pattern 'failed-*' --dir $(NIGHT) || { \
	  echo "make: nothing to replay from nightly run $$run: gh says above why; a run after which" >&2; \
	  echo 'no counterexample is kept has no artifact failed-*' >&2; exit 1; }; \
	echo "nightly run $$run; the folder names the PostgreSQL it failed on"; \
	$(BIN)/python -m invariants replay $(ARGS) $$(find $(NIGHT) -name '*.json' | sort)

test: $(READY)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

slow: $(READY)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

# Each ends with status 1 when it has found something.
false-alarms: $(READY)
	@$(BIN)/python -m tests.search.false_alarms documented --seeds 1 2 3 $(ARGS)
	@$(BIN)/python -m tests.search.false_alarms perturbed --count 50 --draws 20 $(ARGS)
	@$(BIN)/python -m tests.search.false_alarms mutants --each 4 $(ARGS)

lint: $(READY)
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

bench: $(READY)
	@for name in throughput concurrency startup schema findings; do \
	  $(BIN)/python -m benchmarks.$$name $(ARGS) || exit; done

history: $(READY)
	@$(BIN)/python -m invariants history --seed 1 --update docs/findings.md $(ARGS) \
	  tests/counterexamples/*.json

clean:
	rm -rf .venv .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .invariants build artifacts report *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Done again when pyproject.toml changes; a .venv whose Python is gone is made anew.
$(READY): pyproject.toml
	@good='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$good" 2>/dev/null; then \
	  for python in $(PYTHONS) ''; do $$python -c "$$good" 2>/dev/null && break; done; \
	  if [ -z "$$python" ]; then \
	    echo 'make: no Python 3.11 or newer with venv found (tried: $(PYTHONS)).' >&2; \
	    echo 'Install one; on Debian and Ubuntu: apt-get install python3 python3-venv' >&2; exit 1; \
	  fi; \
	  echo "setting up .venv with $$($$python --version); takes about a minute, once"; \
	  rm -rf .venv && $$python -m venv .venv || exit; \
	else echo 'bringing .venv up to date'; fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]' \
	  >.venv/setup.log 2>&1 || { cat .venv/setup.log >&2; exit 1; }
	@# Not every platform has these; what needs them says so.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[pg16,pg17]' \
	  >>.venv/setup.log 2>&1 || echo 'PostgreSQL 16 and 17 have no package for this platform'
	@touch $@
