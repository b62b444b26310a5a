"""The cost of a call has a bound that does not grow with the fleet (invariant 11).

The tests count commands: their number does not depend on the machine.
"""

from __future__ import annotations

from itertools import combinations, islice

import pytest
import redis

from celery_minsched import MinimalSchedulerService, NoAvailableNode
from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.repair import repair

from ..support.bounds import MOST, beat_until_done, count_commands
from ..support.desk import PAIR, Desk, silence

SPEAKER = [{"id": "mt", "langs": [["zh", "en"]]}]
FEW, MANY = 300, 900  # numbers of lines. One call links fewer


def make_lines(desk: Desk, number: int) -> None:
    """Lines of one job each that wait for nodes with the language pair."""
    capabilities = combinations([f"c{n}" for n in range(40)], 3)
    demands = ({**PAIR, "capabilities": list(caps)} for caps in islice(capabilities, number))
    while page := list(islice(demands, 100)):
        desk.send_many(page)


def count_linked(client: redis.Redis, pool: str) -> int:
    """The number of lines that are linked to the pool. The indexes must have no other lines."""
    records = client.hvals("scheduler:lines")
    assert sum(map(len, (r.splitlines() for r in records))) == sum(
        client.zcard(index) for index in client.scan_iter("scheduler:pool:*:waiting*", count=1000)
    )
    return sum(f"{pool}\t" in record for record in records)


@pytest.mark.parametrize("lines", [FEW, MANY])
def test_a_new_pool_of_a_pair_links_its_lines_in_steps(
    desk: Desk, client: redis.Redis, lines: int
) -> None:
    make_lines(desk, lines)
    assert count_commands(client, lambda: desk.node("n1", pools=SPEAKER)) < MOST
    assert count_linked(client, "mt") < lines
    assert Checker(desk.views).check() == []  # the linking continues
    beats = beat_until_done(desk, client, "n1")
    assert beats <= lines // 96 + 2
    assert count_linked(client, "mt") == lines
    assert not client.exists("scheduler:relinking")
    desk.service.set_language_pools("zh", "en", ["mt"])  # nothing changes
    assert not client.exists("scheduler:relinking")
    assert count_commands(client, lambda: desk.node("n2", pools=SPEAKER)) < 1500  # nothing changes
    assert (
        count_commands(client, lambda: desk.service.set_language_pools("zh", "en", ["mt", "new"]))
        < MOST
    )
    beat_until_done(desk, client, "n1")
    assert count_linked(client, "new") == lines


def test_a_change_during_the_linking_reaches_lines_that_are_linked_already(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("idle", pools=["other"])
    make_lines(desk, FEW)
    for pool in ("a", "b", "c"):
        desk.service.set_language_pools("zh", "en", [pool])
    beat_until_done(desk, client, "idle")
    assert [count_linked(client, pool) for pool in "abc"] == [0, 0, FEW]
    assert not client.exists("scheduler:relinking")


def test_a_pair_of_many_pools_links_few_lines_in_a_call(desk: Desk, client: redis.Redis) -> None:
    desk.node("idle", pools=["other"])
    make_lines(desk, FEW)
    pools = [f"mt{number}" for number in range(32)]
    assert count_commands(client, lambda: desk.service.set_language_pools("zh", "en", pools)) < MOST
    beat_until_done(desk, client, "idle")
    assert {count_linked(client, pool) for pool in pools} == {FEW}
    assert count_commands(client, lambda: desk.service.set_language_pools("zh", "en", [])) < MOST
    beat_until_done(desk, client, "idle")
    assert {count_linked(client, pool) for pool in pools} == {0}


def test_the_lines_of_removed_nodes_are_unlinked_in_steps(desk: Desk, client: redis.Redis) -> None:
    desk.node("idle", pools=["other"])
    for number in range(20):
        desk.node(f"n{number}", pools=SPEAKER, caps=[f"x{n}" for n in range(100)])
    make_lines(desk, FEW)
    for number in range(20):
        desk.beat(f"n{number}", online=False, jobs=[])
        client.zadd("scheduler:nodes", {f"n{number}": -1})  # long ago
    client.hset("scheduler:heard", mapping={"since": 1})
    for _ in range(10):
        assert count_commands(client, lambda: desk.beat("idle")) < MOST
    beat_until_done(desk, client, "idle")
    assert client.zcard("scheduler:nodes") == 1
    assert count_linked(client, "mt") == 0


def test_a_search_for_two_capabilities_is_bounded(desk: Desk, client: redis.Redis) -> None:
    for number in range(70):
        desk.node(f"n{number}", 2, caps=["x", "y"])
    jobs = desk.send_many([{"capabilities": ["x", "y"]} for _ in range(100)])
    assert all(job.node_id for job in jobs)
    page = [
        {"capabilities": sorted(pair)}
        for pair in islice(combinations([f"z{n}" for n in range(20)], 2), 99)
    ]
    for number in range(1200):
        desk.node(f"one{number}", 1, caps=["z0" if number % 2 else "z1"])
    assert (
        count_commands(client, lambda: desk.send_many([{"capabilities": ["z0", "z1"]}, *page]))
        < MOST
    )
    assert {line.possible for line in desk.views.lines()} == {False}
    desk.node("rare", 1, caps=["z0", "z1"])
    assert desk.taken("rare") == 1


def test_a_full_node_keeps_no_lines_after_it_changed(desk: Desk) -> None:
    """Other nodes serve the lines that waited for it. One call cannot link all these lines."""
    caps = [f"c{n}" for n in range(25)]
    desk.node("a", 1, caps=caps)
    desk.dispatch()
    only_a = {"affinity": "require", "preferred_node": "a"}
    demands = [{"capabilities": sorted(pair), **only_a} for pair in combinations(caps, 2)]
    for start in range(0, 300, 100):
        desk.send_many(demands[start : start + 100])
    desk.node("b", 400, caps=caps)
    assert desk.taken("b") == 0
    desk.node("a", 1)
    assert Checker(desk.views).check() == []  # the linking continues
    for _ in range(14):
        desk.beat("b")
    assert desk.taken("b") == 300


def test_a_call_fills_few_nodes_of_many_indexes(desk: Desk, client: redis.Redis) -> None:
    pools, caps = [f"p{n}" for n in range(16)], [f"c{n}" for n in range(15)]
    for number in range(60):
        desk.node(f"n{number}", 1, pools, caps)
    desk.send(pool="p0", capabilities=["none"])
    desk.service.pause_pool("p0")
    assert count_commands(client, lambda: desk.service.pause_pool("p0", paused=False)) < MOST


def test_a_batch_for_a_pair_of_many_pools_is_dispatched_in_several_calls(
    desk: Desk, client: redis.Redis
) -> None:
    desk.service.set_language_pools("zh", "en", [f"p{number}" for number in range(200)])
    desk.node("n1", 20, ["p7"])
    jobs = []
    commands = count_commands(
        client, lambda: jobs.extend(desk.send_many([PAIR for _ in range(60)]))
    )
    assert commands / client.info("commandstats")["cmdstat_evalsha"]["calls"] < MOST
    assert [job.node_id for job in jobs] == ["n1"] * 20 + [""] * 40


def test_a_dispatch_removes_a_bounded_number_of_silent_nodes(
    desk: Desk, client: redis.Redis
) -> None:
    for number in range(300):
        desk.node(f"n{number}", 1)
        silence(desk, f"n{number}", 9000)
    desk.node("alive", 1)
    desk.beat("alive", load_json='{"cpu": 50}')  # last in load order

    def dispatch() -> None:
        with pytest.raises(NoAvailableNode):
            desk.dispatch()

    assert count_commands(client, dispatch) < MOST
    job_ids = {desk.send().job_id for _ in range(2)}
    desk.beat("alive")
    assert desk.taken("alive") == 1
    assert {desk.status(job_id) for job_id in job_ids} == {"dispatched", "waiting"}


def test_check_finds_a_line_in_the_index_of_a_pool_without_nodes(
    service: MinimalSchedulerService, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1")
    desk.park(**PAIR)
    client.zadd("scheduler:pool:gone:waiting", {"zh:en//": 7})
    checker = Checker(desk.views)
    [violation] = checker.check(pause=0)
    assert violation.code == "line_stray"
    assert "zh:en// does not belong in this index" in str(violation)
    assert repair(service, checker, [violation], pause=0) == []
    assert not client.exists("scheduler:pool:gone:waiting")
