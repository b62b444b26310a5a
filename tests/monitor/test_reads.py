"""A read of a large fleet reads a bounded number of keys, at any number of lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import pytest
import redis

from celery_minsched import MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.lines import MOST_LINES
from celery_minsched.monitor.metrics import MOST_DEMANDS, OTHER
from celery_minsched.monitor.possible import is_possible, possible_demands
from celery_minsched.monitor.queries import Views
from celery_minsched.monitor.snapshot import read_counters, take_snapshot
from celery_minsched.web.nodes_page import nodes_page
from celery_minsched.web.pools_page import pools_page
from celery_minsched.web.table_request import FIRST_ROWS, MAX_ROWS, TableRequest
from celery_minsched.web.waiting_page import waiting_page

from ..support.commands import run_with
from ..support.desk import Desk
from ..support.fleet import make_app
from ..support.scrape import scrape
from ..support.server import Server

FEW, MANY = MOST_LINES + 200, 3 * MOST_LINES
CAPABILITIES = [f"cap-{number}" for number in range(60)]

FACES: dict[str, Callable[[Views], object]] = {
    "exporter": scrape,
    "top": take_snapshot,
    "top, before": read_counters,
    "nodes page": nodes_page,
    "pools page": pools_page,
    "waiting page": waiting_page,
    "jobs": lambda views: views.jobs(100),
    "waiting jobs": lambda views: views.jobs(100, status="waiting"),
    "lines": lambda views: views.lines(MOST_LINES),
}


def demands() -> Iterator[dict[str, Any]]:
    """Demands of different lines: for two pools and a language pair, with two capabilities."""
    wheres = [{"pool": "asr"}, {"pool": "mt"}, {"src_lang": "zh", "tgt_lang": "en", "pool": None}]
    for first, second, where in product(CAPABILITIES, CAPABILITIES, wheres):
        if first < second:
            yield {**where, "capabilities": [first, second]}


@pytest.fixture(scope="module")
def crowd() -> Iterator[tuple[Desk, dict[str, dict[str, int]]]]:
    """A fleet with many lines, and the calls of each face when it had fewer lines."""
    server = Server()
    with server.client() as client:
        desk = Desk(MinimalSchedulerService(client))
        desk.node("n1", 1, ["asr"], CAPABILITIES[:2])
        desk.node("n2", 1, [{"id": "mt", "langs": [["zh", "en"]]}], CAPABILITIES[1:3])
        desk.dispatch()
        desk.dispatch(pool="mt")
        jobs = demands()
        send(desk, islice(jobs, FEW))
        before = {name: calls(client, desk.views, face) for name, face in FACES.items()}
        send(desk, islice(jobs, MANY - FEW))
        send(desk, [{"pool": "asr"}] * 10)
        yield desk, before
        assert Checker(desk.views).check() == []
    server.close()


def send(desk: Desk, jobs: Any) -> None:
    jobs = list(jobs)
    for start in range(0, len(jobs), 100):
        desk.send_many(jobs[start : start + 100])


def calls(client: redis.Redis, views: Views, face: Callable[[Views], object]) -> dict[str, int]:
    """The number of calls of each command by the face."""
    client.config_resetstat()
    face(views)
    stats = client.info("commandstats")
    return {name: stat["calls"] for name, stat in stats.items() if "config" not in name}


@pytest.mark.parametrize("name", FACES)
def test_a_read_costs_the_same_with_more_lines(name: str, crowd: Any) -> None:
    desk, before = crowd
    after = calls(desk.service.redis, desk.views, FACES[name])
    # Three numbers differ a little at any number of lines: the names in an answer of HSCAN, and the
    # language pairs and the capabilities of the lines that Redis returns first.
    total, was = sum(after.values()), sum(before[name].values())
    assert total <= 1.1 * was + 20, (before[name], after)


def test_totals_count_all_lines(crowd: Any) -> None:
    views = crowd[0].views
    assert views.line_count() == MANY + 1
    lines = views.lines()
    total = sum(line.waiting for line in lines)
    assert (len(lines), total) == (MANY + 1, MANY + 10)
    assert views.waiting_count() == total
    assert sum(views.waiting_counts().values()) == total
    by_pool = {pool.pool: pool.waiting for pool in views.pools()}
    assert by_pool == {"asr": MANY // 3 + 10, "mt": 2 * MANY // 3}
    snapshot = take_snapshot(views)
    assert (snapshot.waiting, snapshot.line_count) == (total, MANY + 1)
    assert len(snapshot.lines) == MOST_LINES
    assert nodes_page(views)["texts"]["waiting"] == f"{total:,}"
    scraped = scrape(views)
    demanded = scraped.of("minsched_waiting_jobs")
    assert len(demanded) == MOST_DEMANDS + 1
    in_series = [scraped.value("minsched_waiting_jobs", **labels) for labels in demanded]
    assert sum(in_series) == total
    assert scraped.value("minsched_waiting_jobs", demand=OTHER) >= total - MOST_LINES
    assert scraped.value("minsched_pool_waiting_jobs", pool="mt") == 2 * MANY // 3


def test_a_line_is_possible_if_one_node_of_its_pools_has_all_capabilities(crowd: Any) -> None:
    views = crowd[0].views
    possible = {line.name for line in views.lines() if line.possible}
    assert possible == {"asr//", "asr/cap-0,cap-1/", "mt/cap-1,cap-2/", "zh:en/cap-1,cap-2/"}
    for name in ("asr/cap-0,cap-1/", "asr/cap-0,cap-2/"):
        where, capabilities, _ = name.split("/")
        assert is_possible(views.reader, where, capabilities.split(",")) == (name in possible)
    two = ("asr", ("cap-0", "cap-2")), ("mt", ("cap-1", "cap-2"))
    assert possible_demands(views.reader, two) == {two[1]}
    assert possible_demands(views.reader, two, most_members=1) == {two[1]}


def test_the_waiting_page_shows_a_part_of_the_lines(crowd: Any) -> None:
    views = crowd[0].views
    first = waiting_page(views)
    rows = first["tables"]["lines"]
    assert (len(rows), first["numbers"]["lines"]) == (FIRST_ROWS.limit, [MOST_LINES, MANY + 1])
    assert first["texts"]["lines"] == f"the first {MOST_LINES:,} of {MANY + 1:,}"
    assert first["texts"]["waiting"] == f"{MANY + 10:,}"
    assert len(first["tables"]["jobs"]) <= MAX_ROWS
    second = waiting_page(views, "", TableRequest(offset=50, limit=100))["tables"]["lines"]
    assert len(second) == 100
    assert not {row["id"] for row in rows} & {row["id"] for row in second}
    matches = waiting_page(views, "", TableRequest(find="ZH:en CAP-2,"))
    assert 0 < (number := matches["numbers"]["lines"][0]) < MANY
    assert matches["texts"]["lines"] == f"{number:,} found, of {MANY + 1:,}"
    for row in matches["tables"]["lines"]:
        assert row["asks_for"].startswith("zh:en ")
        assert "cap-2" in row["asks_for"]
    none = waiting_page(views, "", TableRequest(find="*"))
    assert none["numbers"]["lines"] == [0, MANY + 1]
    [most, *_] = waiting_page(views, "", TableRequest(find="asr//", sort="jobs", descending=True))[
        "tables"
    ]["lines"]
    assert (most["id"], most["waiting"]) == ("asr//", 10)


def test_waiting_says_how_many_lines_it_read(crowd: Any) -> None:
    desk = crowd[0]
    port = desk.service.redis.connection_pool.connection_kwargs["port"]
    app = make_app(f"redis://127.0.0.1:{port}/0")
    answer = run_with(app, "waiting", "--limit", "5")
    assert answer.stdout.splitlines()[-1] == (
        f"… and {MANY - 4:,} lines more. See --limit and --offset."
    )
    assert answer.stderr == (
        f"Read {MOST_LINES:,} lines of {MANY + 1:,}. {MANY + 10:,} jobs wait in all lines. "
        f"--limit {MANY + 1} reads all lines.\n"
    )
    assert len(json.loads(run_with(app, "waiting", "--json").stdout)) == MOST_LINES
    everything = run_with(app, "waiting", "--json", "--limit", str(MANY + 1))
    assert (everything.stderr, len(json.loads(everything.stdout))) == ("", MANY + 1)
    top = run_with(app, "top", "--once", "--interval", "0.1").stdout
    assert f"… and {MANY + 1 - 8:,} lines more" in top
    app.close()


class TestPaging:
    """Commands and pages show a part of the nodes, pools or jobs at a time."""

    @pytest.fixture
    def fleet(self, desk: Desk) -> Desk:
        for number in range(120):
            desk.node(f"n{number}", 2, [f"p{number}", "all"], ["gpu"] if number % 10 == 0 else [])
        desk.beat("n7", state="stuck")
        return desk

    def test_the_nodes_page_sorts_searches_and_pages(self, fleet: Desk) -> None:
        def ids(**request: Any) -> list[str]:
            return [
                row["id"]
                for row in nodes_page(fleet.views, "", TableRequest(**request))["tables"]["nodes"]
            ]

        assert ids(limit=3) == ["n7", "n0", "n1"]  # first the stuck node, then by number
        assert ids(offset=118) == ["n118", "n119"]
        assert ids(find="GPU n1", limit=200) == ["n10", "n100", "n110"]
        assert ids(sort="node", descending=True, limit=2) == ["n119", "n118"]
        assert nodes_page(fleet.views, "", TableRequest(find="gpu"))["numbers"] == {
            "nodes": [12, 120]
        }
        assert nodes_page(fleet.views)["texts"]["nodes"] == "119 / 120"

    def test_the_pools_page_sorts_and_pages(self, fleet: Desk) -> None:
        answer = pools_page(fleet.views, "", TableRequest(offset=1, limit=2, sort="pool"))
        assert [row["id"] for row in answer["tables"]["pools"]] == ["p0", "p1"]
        assert answer["numbers"] == {"pools": [121, 121]}

    def test_commands_show_a_part_and_the_number_of_the_others(
        self, fleet: Desk, server: Server
    ) -> None:
        app = make_app(server.url)
        for command, noun, total in (("nodes", "node", 120), ("pools", "pool", 121)):
            output = run_with(app, command).stdout
            assert output.endswith(f"… and {total - 100} {noun}s more. See --limit and --offset.\n")
            rest = run_with(app, command, "--offset", "100").stdout
            assert "more" not in rest
            assert len(json.loads(run_with(app, command, "--json").stdout)) == total
            two = run_with(app, command, "--json", "--limit", "2", "--offset", "1")
            assert (
                json.loads(two.stdout) == json.loads(run_with(app, command, "--json").stdout)[1:3]
            )
        assert "… and 20 nodes more" in run_with(app, "top", "--once", "--interval", "0.1").stdout
        app.close()

    def test_jobs_can_start_at_an_offset(self, desk: Desk, server: Server) -> None:
        for number in range(5):
            desk.park(task_id=f"t{number}")
        app = make_app(server.url)
        jobs = json.loads(run_with(app, "jobs", "--json", "--offset", "2", "--limit", "2").stdout)
        assert [job["task_id"] for job in jobs] == ["t2", "t3"]
        app.close()


def test_a_waiting_job_counts_for_each_pool_that_can_serve_it(desk: Desk) -> None:
    desk.node("n1", 1, [{"id": "a", "langs": [["zh", "en"]]}])
    desk.node("n2", 1, [{"id": "b", "langs": [["zh", "en"], ["de", "en"]]}, "plain"])
    desk.dispatch(pool="a")
    desk.dispatch(pool="b")
    pair = {"src_lang": "zh", "tgt_lang": "en"}
    desk.park(pool=None, **pair)
    desk.park(pool="a", **pair)
    desk.park(pool="a", src_lang="de", tgt_lang="en")  # pool a does not serve it
    desk.park(pool="plain", **pair)  # this pool lists no pair
    desk.park(pool=None, src_lang="xx", tgt_lang="yy")  # no pool serves it
    desk.park(pool="cold")
    waiting = {pool.pool: pool.waiting for pool in desk.views.pools()}
    assert waiting == {"a": 2, "b": 1, "plain": 1, "cold": 1}
    assert desk.views.waiting_count() == 6
    desk.service.set_language_pools("xx", "yy", ["later"])  # a pool without a node
    waiting = {pool.pool: pool.waiting for pool in desk.views.pools()}
    assert waiting["later"] == 1
    assert desk.views.pool_names() == ["a", "b", "cold", "later", "plain"]
