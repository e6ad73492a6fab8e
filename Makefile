# Every target is one line that also works by hand. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Scratch files of tests in memory where there is room: hundreds of small databases that are flushed for nothing.
IN_MEMORY = $(shell [ "$$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 6000000 ] 2>/dev/null && echo PYTEST_DEBUG_TEMPROOT=/dev/shm)
PYTEST = $(IN_MEMORY) $(BIN)/pytest

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types imports faults soak fuzz fuzz-guided peers bench bench-receive bench-results bench-score wheel format lock

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

$(STAMP): requirements/torch-cpu.txt requirements/dev.lock requirements/demo.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/torch-cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.lock -r requirements/demo.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP) ## create .venv and install everything, locked

demo: $(STAMP) ## a scanner's send, the analysis and the way back to a PACS, on loopback (DIR=folder for your own DICOM)
	PYTHONPATH=tests $(BIN)/python -m demo $(if $(DIR),--dir "$(DIR)")

test: $(STAMP) ## the whole suite; peers that are not installed are skipped with the install line
	$(PYTEST) --durations=15

lint: $(STAMP) ## ruff: format and rules
	$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy && $(BIN)/mypy tests

imports: $(STAMP) ## which way imports point
	$(BIN)/lint-imports

check: lint types imports test ## what a change must pass

faults: $(STAMP) ## the crash and fault trials, then 210 kills at random moments with a table (ARGS="--trials 20 --shipped 1 --seed 12")
	$(PYTEST) -m faults
	PYTHONPATH=tests $(BIN)/python -m kills $(ARGS)

soak: $(STAMP) ## 50,000 images from 8 senders with faults among them: nothing lost, memory flat (ARGS="--images 5000 --seed 3")
	PYTHONPATH=tests $(BIN)/python -m soak $(ARGS)

fuzz: $(STAMP) ## 22,500 broken objects, PDUs and files; a table of the answers (ARGS="--share 0.1 --first 90000" or "--seed file:59")
	PYTHONPATH=tests $(BIN)/python -m fuzz $(ARGS)

fuzz-guided: $(STAMP) ## coverage-guided, with atheris where it has a wheel (TARGET=peek|messages|file|codestream, SECONDS=60)
	$(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/pip install --quiet --no-deps --only-binary :all: atheris==3.0.0
	PYTHONPATH=tests $(BIN)/python -m fuzz.coverage_guided $(or $(TARGET),peek) --seconds $(or $(SECONDS),60)

peers: $(STAMP) ## only the tests with programs from outside: Orthanc, dcmtk, dicom3tools, a browser, spin
	$(PYTEST) -m peer

format: $(STAMP) ## rewrite in house form
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(STAMP) ## measure: receiving, scoring, one head from last image to last result; appends to docs/bench/*.jsonl
	PYTHONPATH=tests $(BIN)/python -m bench

bench-receive: $(STAMP) ## measure receiving alone: beside pynetdicom, storescp, Orthanc; from storescu; on a slow disk; while the worker computes
	PYTHONPATH=tests $(BIN)/python -m bench receive receive_storescu receive_slow_disk receive_busy

bench-score: $(STAMP) ## measure scoring beside the published dense convolution, and one volume's reconstruction
	PYTHONPATH=tests $(BIN)/python -m bench score

bench-results: $(STAMP) ## measure making and sending all results of 176 slices, beside storescu
	PYTHONPATH=tests $(BIN)/python -m bench results

wheel: $(STAMP) ## build sdist and wheel
	$(BIN)/python -m build --no-isolation

lock: $(STAMP) ## renew requirements/*.lock
	cd requirements && for f in run dev; do ../$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --unsafe-package torch --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o $$f.lock $$f.in && sed -i "/^# The following packages are considered/,$$ d" $$f.lock; done
