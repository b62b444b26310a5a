"""The metrics, and the cost of a scrape."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import redis
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from celery_minsched import MinimalSchedulerService, Settings
from celery_minsched.cli.exporter import exporter
from celery_minsched.monitor.metrics import (
    MOST_DEMANDS,
    MOST_POOLS,
    NODE_LABELS,
    OTHER,
    SchedulerCollector,
)
from celery_minsched.plugin.metrics import register

from ..support.desk import Desk, silence
from ..support.fleet import ROOT, app_environment, make_app, wait_for
from ..support.scrape import Scrape, busy, scrape
from ..support.server import Server, free_port


def test_a_scrape_shows_full_nodes_and_waiting_jobs(desk: Desk) -> None:
    busy(desk)
    scraped = scrape(desk.views)
    assert scraped.value("minsched_up") == 1
    assert scraped.value("minsched_node_slots", node="n1") == 2
    assert scraped.value("minsched_node_slots_taken", node="n1") == 2
    assert scraped.value("minsched_node_load_ratio", node="n1", resource="cpu") == 0.5
    texts = dict.fromkeys(NODE_LABELS, "")
    assert {"node": "n2", "pool": "mt", **texts} in scraped.of("minsched_node_info")
    assert scraped.value("minsched_waiting_jobs", demand="asr") == 2
    assert scraped.value("minsched_waiting_jobs", demand="asr +tpu") == 1
    assert scraped.value("minsched_impossible_jobs") == 1
    assert 0 <= scraped.value("minsched_oldest_waiting_seconds", demand="asr") < 60
    assert (
        scraped.value("minsched_pool_load_ratio", pool="asr") == 2
    )  # 3 jobs in 3 slots, and 3 waiting jobs
    assert scraped.value("minsched_pool_load_ratio", pool="mt") == 1


def test_a_scrape_shows_the_outcomes_of_jobs(desk: Desk) -> None:
    busy(desk)
    scraped = scrape(desk.views)
    outcomes = {"least_loaded": 3, "first_free": 1, "busy": 3, "no_available_node": 1, "sticky": 0}
    for outcome, number in outcomes.items():
        assert scraped.value("minsched_dispatches_total", pool="asr", outcome=outcome) == number
    assert scraped.value("minsched_dispatches_total", pool="", outcome="impossible") == 1
    assert scraped.value("minsched_jobs_ended_total", pool="asr", status="failed") == 1
    assert scraped.value("minsched_wait_seconds_count", pool="asr") == 1
    assert scraped.value("minsched_wait_seconds_bucket", pool="asr", le="60.0") == 1
    assert 0 <= scraped.value("minsched_wait_seconds_sum", pool="asr") < 60
    assert scraped.value("minsched_script_calls_total") > 0
    assert scraped.value("minsched_script_seconds_total") > 0
    assert scraped.value("minsched_redis_commands_total") > scraped.value(
        "minsched_script_calls_total"
    )
    assert 0 < scraped.value("minsched_redis_round_trip_seconds") < 5


def test_a_job_that_was_never_sent_is_not_counted_as_lost(desk: Desk) -> None:
    """Its caller got an error."""
    desk.node("n1", 1)
    desk.service.release_job(desk.dispatch().job_id)
    scraped = scrape(desk.views)
    assert scraped.value("minsched_jobs_ended_total", pool="asr", status="unsent") == 1
    assert scraped.value("minsched_jobs_ended_total", pool="asr", status="lost") == 0


def test_names_follow_the_rules_of_prometheus_and_labels_are_bounded(desk: Desk) -> None:
    busy(desk)
    scraped = scrape(desk.views)
    for name, family in scraped.families.items():
        assert re.fullmatch(r"minsched_[a-z][a-z_]*[a-z]", name), name
        assert family.documentation.endswith("."), name
        assert family.type in ("gauge", "counter", "histogram"), name
        assert not re.search(r"milli|_ms|minutes|percent|_count$|_total$", name), name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            known_labels = {
                "node",
                "state",
                "pool",
                "resource",
                "demand",
                "outcome",
                "status",
                "le",
            }
            assert set(sample.labels) <= {*known_labels, *NODE_LABELS}
    series = [(sample.name, *sorted(sample.labels.items())) for sample in scraped.samples]
    assert len(series) == len(set(series))
    for secret in ("u1", "u2"):  # session ids, which are a part of job ids
        assert f'"{secret}' not in scraped.text


def test_a_wait_longer_than_all_bounds_is_in_the_last_bucket(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    first = desk.dispatch()
    job_id = desk.park()
    client.hincrby(desk.service.keys("job", job_id), "waiting_ts", -7_200_000)
    desk.complete(first)
    scraped = scrape(desk.views)
    assert scraped.value("minsched_wait_seconds_bucket", pool="asr", le="1800.0") == 0
    assert scraped.value("minsched_wait_seconds_bucket", pool="asr", le="+Inf") == 1
    assert 7200 <= scraped.value("minsched_wait_seconds_sum", pool="asr") < 7260


def test_a_scrape_is_valid_openmetrics(desk: Desk) -> None:
    busy(desk)
    registry = CollectorRegistry()
    registry.register(SchedulerCollector(lambda: desk.views))
    assert generate_openmetrics(registry).endswith(b"# EOF\n")


class TestLoad:
    """(taken + waiting) / slots is right for a fleet without nodes, where an autoscaler starts."""

    def test_jobs_that_wait_for_a_pool_without_nodes_are_its_load(self, desk: Desk) -> None:
        for _ in range(3):
            desk.park(pool="cold")
        scraped = scrape(desk.views)
        assert scraped.value("minsched_pool_load_ratio", pool="cold") == 3
        assert scraped.value("minsched_pool_nodes", pool="cold") == 0
        desk.node("n1", 4, ["cold"])
        assert scrape(desk.views).value("minsched_pool_load_ratio", pool="cold") == 0.75

    def test_a_fleet_without_nodes_and_jobs_has_no_load(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.beat("n1", online=False, jobs=[])
        assert scrape(desk.views).value("minsched_pool_load_ratio", pool="asr") == 0


def test_all_but_the_largest_demands_are_one_series(desk: Desk) -> None:
    desk.node("n1", 1)
    for number in range(MOST_DEMANDS + 20):
        desk.park(capabilities=[f"c{number:03}"])
    desk.park(capabilities=["c065"])
    scraped = scrape(desk.views)
    demands = [labels["demand"] for labels in scraped.of("minsched_waiting_jobs")]
    assert len(demands) == MOST_DEMANDS + 1
    assert scraped.value("minsched_waiting_jobs", demand="asr +c065") == 2
    assert scraped.value("minsched_waiting_jobs", demand=OTHER) == 20
    assert scraped.value("minsched_impossible_jobs") == MOST_DEMANDS + 21


class TestSeriesEnd:
    def test_a_dead_node_has_one_series_that_says_it_is_down(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.node("n2", 1)
        silence(desk, "n1", 60_000)
        desk.service.declare_dead("n1")
        desk.beat("n2", online=False, jobs=[])  # it leaves
        scraped = scrape(desk.views)
        series = [sample.name for sample in scraped.samples if "node" in sample.labels]
        assert series == ["minsched_node_up"]
        assert scraped.value("minsched_node_up", node="n1") == 0
        assert scraped.value("minsched_node_deaths_total") == 1

    def test_1000_nodes_that_have_left_have_no_series(
        self, client: redis.Redis, server: Server
    ) -> None:
        service = MinimalSchedulerService(client, Settings(history_ttl=60))
        desk = Desk(service)
        desk.node("stays", 1)
        before = len(scrape(desk.views).samples)
        for number in range(1000):
            desk.node(f"n{number}", 4, [f"pool{number % 10}"])
        assert len(scrape(desk.views).samples) > before + 4000
        hour = 3_600_000
        with client.pipeline(transaction=False) as pipe:
            for number in range(1000):
                node_id = f"n{number}"
                pipe.hincrby(service.keys("node_info", node_id), "last_heartbeat_ts", -hour)
                pipe.zincrby(service.keys("nodes"), -hour, node_id)
            pipe.execute()
        client.hset(service.keys("heard"), mapping={"since": 1, "last": desk.views.now()})
        for _ in range(45):  # each heartbeat marks and removes a bounded number
            desk.beat("stays", jobs=[])
        assert [node.node_id for node in desk.views.nodes()] == ["stays"]
        scraped = scrape(desk.views)
        assert len(scraped.samples) == before
        assert scraped.value("minsched_node_deaths_total") == 1000


class TestWatching:
    """With 1000 nodes, no command and no scrape blocks Redis."""

    @pytest.fixture
    def crowd(self, client: redis.Redis) -> Desk:
        desk = Desk(MinimalSchedulerService(client))
        for number in range(1000):
            desk.node(f"n{number}", 2, ["asr", f"p{number % 20}"], caps=["gpu"])
        for _ in range(200):
            desk.dispatch()
        for number in range(200):
            desk.park(pool="cold", session_id=f"u{number}")
        return desk

    def test_reads_use_short_bounded_commands_and_read_each_node_once(
        self, crowd: Desk, client: redis.Redis
    ) -> None:
        views = crowd.views

        def look() -> None:
            scrape(views)
            views.nodes()
            views.pools()
            views.jobs()
            views.lines()
            views.jobs_at("n1")
            views.events()

        client.config_set("slowlog-log-slower-than", 5000)  # µs
        try:
            slow: set[str] = set()
            for _ in range(5):  # a busy machine delays a server at random
                client.slowlog_reset()
                client.config_resetstat()
                look()
                commands = {entry["command"].split()[0] for entry in client.slowlog_get()}
                slow = slow & commands if slow else commands
                if not slow:
                    break
            assert slow == set()
        finally:
            client.config_set("slowlog-log-slower-than", 10_000)
        called = {name.removeprefix("cmdstat_") for name in client.info("commandstats")}
        assert called & {"keys", "smembers", "hvals", "hkeys", "sort"} == set()
        changes = {"set", "hset", "del", "zadd", "zrem", "expire", "evalsha", "eval"}
        assert called & changes == set()

        client.config_resetstat()
        scrape(views)
        calls = client.info("commandstats")
        assert calls["cmdstat_hmget"]["calls"] == 1000
        assert sum(command["calls"] for command in calls.values()) < 2300


class TestExporter:
    """The process ``celery -A app minsched exporter``."""

    @pytest.fixture
    def server(self) -> Iterator[Server]:
        """A server of its own, because the test stops it."""
        server = Server()
        yield server
        server.close()

    @pytest.fixture
    def page(self, server: Server) -> Iterator[str]:
        port = free_port()
        process = run_exporter(server, "--port", str(port), "--address", "127.0.0.1")
        yield f"http://127.0.0.1:{port}/metrics"
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 0

    def test_the_exporter_serves_while_redis_stops_and_starts(
        self, page: str, server: Server
    ) -> None:
        def read() -> Scrape | None:
            try:
                with urllib.request.urlopen(page, timeout=30) as answer:
                    return Scrape(answer.read().decode())
            except OSError:
                return None

        first = wait_for(read, "the exporter", patience=60)
        assert first.value("minsched_up") == 1
        server.stop()
        try:
            away = read()
            assert away is not None
            assert [sample.name for sample in away.samples] == ["minsched_up"]
            assert away.value("minsched_up") == 0
        finally:
            server.start()
        back = read()
        assert back is not None
        assert back.value("minsched_up") == 1

    def test_a_port_in_use_is_reported(self, server: Server) -> None:
        options = ["--port", str(server.port), "--address", "127.0.0.1"]
        context = SimpleNamespace(app=make_app(server.url))
        result = CliRunner().invoke(exporter, options, obj=context)
        assert result.exit_code == 2
        assert f"cannot listen on 127.0.0.1:{server.port}: Address already in" in result.output


def run_exporter(server: Server, *options: str) -> subprocess.Popen[bytes]:
    environment = app_environment(server.url)
    command = [sys.executable, "-m", "celery", "-A", "tests.support.app", "minsched", "exporter"]
    return subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_register_needs_no_connection() -> None:
    """Flower registers the metrics at its start. Redis may be away then."""
    registry = CollectorRegistry(auto_describe=True)
    app = make_app(f"redis://127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    register(app, registry)
    assert time.monotonic() - began < 1
    assert "minsched_up 0.0" in generate_latest(registry).decode()


def test_the_number_of_series_of_pools_is_bounded(desk: Desk) -> None:
    for number in range(5):
        desk.node(f"n{number}", 1, [f"p{number}-{n}" for n in range(250)])
    desk.node("large", 9, ["asr"])
    desk.send()
    scraped = scrape(desk.views)
    labels = scraped.of("minsched_pool_slots")
    assert len(labels) == MOST_POOLS + 1
    assert {"pool": "asr"} in labels
    assert len(scraped.of("minsched_node_info")) == MOST_POOLS
    assert scraped.value("minsched_pool_slots", pool=OTHER) == 1251 - MOST_POOLS
    assert sum(scraped.value("minsched_pool_slots", **label) for label in labels) == 1259
