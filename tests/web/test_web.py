"""The pages for Flower in a real browser: their contents, access and behaviour at errors."""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any

import pytest
from click.testing import CliRunner

from celery_minsched.cli.flower import flower as flower_command

from ..support import screenshots
from ..support.desk import Desk, silence
from ..support.fleet import Fleet, wait_for
from ..support.flowers import CHROMEDRIVER, CHROMIUM, Browser, FlowerProcess, Flowers, NodeServer

PAGES = ("nodes", "node?of=n1", "pools", "waiting", "events", "why?of=t", "why")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no chromium and chromedriver here (make browser)"
)


def data(flower: FlowerProcess, page: str, **headers: str) -> Any:
    status, text = flower.get(f"/minsched/data/{page}", **headers)
    assert status == 200, text
    return json.loads(text)


@needs_browser
class TestPages:
    def test_an_empty_page_says_how_to_start_a_node(
        self, desk: Desk, browser: Browser, look: Any
    ) -> None:
        look("nodes")
        assert "Start one: node-agent" in browser.text("[data-table=nodes]")
        assert browser.text("[data-text=nodes]") == "0 / 0"
        assert browser.text(".app-nav .nav-link.active") == "Nodes"

    def test_the_pages_show_a_busy_fleet_with_dead_nodes_first(
        self, desk: Desk, browser: Browser, look: Any
    ) -> None:
        screenshots.busy(desk)
        look("nodes")
        rows = browser.rows("nodes")
        assert [row[0] for row in rows] == [
            *("spare", "gpu-4", "cpu-3", "old-box", "gpu-1", "gpu-2", "cpu-1", "cpu-2", "gpu-3")
        ]
        assert rows[0][1:3] == ["dead", "0 / 4"]
        assert [row[1:3] for row in rows[1:3]] == [["stuck", "1 / 4"], ["stopping", "1 / 4"]]
        assert rows[4][1:5] == ["full", "4 / 4", "cpu 61 % gpu 97 % mem 48 %", "asr"]
        cards = [browser.text(f"[data-text={name}]") for name in ("nodes", "slots", "waiting")]
        assert cards == ["6 / 9", "19 / 28", "8"]
        assert browser.text("[data-text=dead]") == "2"
        look("pools")
        assert browser.rows("pools")[0][:5] == ["asr", "open", "13 / 16", "6", "1.19"]
        look("waiting")
        assert ["ocr +tesseract-5", "impossible", "2"] in [r[:3] for r in browser.rows("lines")]
        jobs = browser.rows("jobs")
        assert {job[0].split()[0] for job in jobs} >= {"documents.read", "speech.transcribe"}
        assert ["zh:en +whisper-large", "1"] in [job[1:3] for job in jobs]
        look("events")
        assert "node died" in browser.text("[data-table=events]")

    def test_a_node_s_page_shows_the_jobs_in_its_slots(
        self, desk: Desk, browser: Browser, look: Any
    ) -> None:
        desk.node("n1", 2)
        desk.dispatch(task_id="t", session_id="u7", payload_json='{"task": "speech.transcribe"}')
        look("node?of=n1")
        assert browser.rows("jobs")[0][:2] == ["speech.transcribe t", "dispatched"]
        silence(desk, "n1", 60_000)
        desk.service.declare_dead("n1")
        look("node?of=n1")
        assert browser.text(".minsched-name .badge") == "dead"
        assert browser.text("[data-text=heartbeat]").startswith("1 min")
        look("node?of=nobody")
        assert "unknown" in browser.text(".minsched-name")

    def test_a_search_finds_one_of_200_nodes(self, desk: Desk, browser: Browser, look: Any) -> None:
        screenshots.many(desk, 200)
        look("nodes")
        first, second, third, *full = browser.rows("nodes")
        assert [first[0], second[0], third[0]] == ["node-17", "node-118", "node-42"]  # by number
        assert [first[1], second[1], third[1], full[0][1]] == ["dead", "dead", "draining", "full"]
        assert len(browser.rows("nodes")) == 50
        browser.script("$('[data-table=nodes]').DataTable().search('node-199').draw()")
        wait_for(lambda: [row[0] for row in browser.rows("nodes")] == ["node-199"])

    def test_lines_can_be_paged_and_searched(self, desk: Desk, browser: Browser, look: Any) -> None:
        desk.node("n1", 1)
        for number in range(130):
            desk.park(capabilities=[f"cap-{number:03}"], task_id=f"t{number}")

        def ids() -> list[str]:
            return [row[0] for row in browser.rows("lines")]

        look("waiting")
        assert (len(ids()), ids()[0]) == (50, "asr +cap-000")
        assert browser.text("#DataTables_Table_0_info") == "1 to 50 of 130"
        assert browser.rows("jobs")[0][0] == "— t0"
        browser.script("$('[data-table=lines]').DataTable().page('next').draw('page')")
        wait_for(lambda: ids()[:1] == ["asr +cap-050"])
        assert browser.rows("jobs")[0][0] == "— t50"
        browser.script("$('[data-table=lines]').DataTable().search('CAP-12 asr').draw()")
        wait_for(lambda: len(ids()) == 10)
        assert browser.text("#DataTables_Table_0_info") == "1 to 10 of 10 (of 130 in all)"
        browser.script("$('[data-table=lines]').DataTable().search('nothing').draw()")
        wait_for(lambda: ids() == ["Nothing matches."])

    def test_the_why_page_explains_placed_waiting_and_unknown_tasks(
        self, desk: Desk, browser: Browser, look: Any
    ) -> None:
        desk.node("n1", 1)
        first = desk.dispatch(task_id="t1")
        desk.park(task_id="t2")
        look("why?of=t1")
        assert "It went to node n1, the least loaded" in browser.text("[data-list=story]")
        look("why?of=t2")
        assert browser.text(".minsched-story .badge") == "waiting"
        assert browser.text("[data-text=line]") == "1"
        assert browser.rows("candidates")[0][:3] == ["n1", "full", "1 / 1"]
        desk.complete(first)
        look("why?of=t2")
        assert browser.text(".minsched-story .badge") == "placed"
        look("why?of=t3")
        assert "does not know task 't3'" in browser.text("[data-list=story]")

    def test_each_page_fits_on_a_phone(self, desk: Desk, browser: Browser, look: Any) -> None:
        long = "a" * 60
        desk.node("n1", 2, ["asr", "p-" + long], ["c-" + long])
        desk.node("n-" + long, 200)
        for _ in range(3):
            desk.send(task_id="t", session_id="s-" + long, pool="p-" + long)
        desk.park(pool="p-" + long, session_id="s-" + long, capabilities=["c-" + long])
        for page in PAGES:
            look(page, 400)
            assert browser.overflow() <= 0, page
        assert browser.text(".navbar-toggler") == ""

    def test_html_from_a_producer_is_shown_as_text(
        self, desk: Desk, browser: Browser, look: Any
    ) -> None:
        evil = "<img/src=x/onerror=document.title='pwned'>\"'"
        desk.node("n1", 1)
        desk.dispatch(task_id=evil, session_id=evil, payload_json=json.dumps({"task": evil}))
        desk.park(task_id=evil + "2", session_id=evil, payload_json=json.dumps({"task": evil}))
        for page in ("waiting", "events", f"why?of={evil}", f"node?of={evil}", "node?of=n1"):
            look(page)
            assert browser.script("return document.querySelectorAll('#minsched img').length") == 0
            assert "pwned" not in browser.script("return document.title.split(' · ')[1]"), page
        assert browser.rows("jobs")[0][0] == f"{evil} {evil}"


@needs_browser
def test_a_page_updates_itself_only_in_a_visible_tab(
    desk: Desk, browser: Browser, look: Any
) -> None:
    look("nodes")
    desk.node("n1", 1)
    browser.wait_text("[data-table=nodes]", "n1")
    spy = """
        window.timers = [];
        const set = window.setTimeout;
        window.setTimeout = (f, ms) => { window.timers.push(ms); return set(f, ms); };
        Object.defineProperty(document, 'hidden', {get: () => window.away ?? true});
    """
    added = browser.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": spy})
    try:
        look("nodes")
        assert 2000 not in browser.script("return window.timers")
        browser.script("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
        wait_for(lambda: 2000 in browser.script("return window.timers"), "the next update")
    finally:
        browser.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_each_page_of_flower_has_the_tab(desk: Desk, flowers: Flowers) -> None:
    for page in ("/", "/workers", "/tasks", "/broker", "/minsched/pools"):
        status, text = flowers.open.get(page)
        assert (status, text.count('href="/minsched/nodes"')) >= (200, 1), page


def test_the_data_of_a_table_is_paged(desk: Desk, flowers: Flowers) -> None:
    for number in range(3):
        desk.node(f"n{number}", 1)
    answer = data(flowers.open, "nodes?offset=1&limit=1&sort=node&descending=1&find=ASR")
    assert [row["id"] for row in answer["tables"]["nodes"]] == ["n1"]
    assert answer["numbers"] == {"nodes": [3, 3]}
    assert len(data(flowers.open, "nodes?limit=0&sort=nothing")["tables"]["nodes"]) == 1
    assert flowers.open.get("/minsched/data/nodes?limit=many")[0] == 400


def test_flower_serves_the_metrics_of_the_scheduler(desk: Desk, flowers: Flowers) -> None:
    status, text = flowers.open.get("/metrics")
    assert status == 200
    assert "flower_" in text
    assert "minsched_up 1.0" in text


def test_read_only_mode_refuses_actions(desk: Desk, flowers: Flowers) -> None:
    desk.node("n1", 1)
    assert flowers.open.post("/minsched/do/drain?of=n1") == (403, "Read only mode is enabled")
    assert desk.info("n1").state == "free"
    assert 'data-actions=""' in flowers.open.get("/minsched/nodes")[1]


class TestPageOfAnotherSite:
    """FLOWER_UNAUTHENTICATED_API permits each visitor to act, but not from another site."""

    @pytest.mark.parametrize(
        "site",
        [
            {"Sec-Fetch-Site": "cross-site", "Origin": "http://elsewhere"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "http://elsewhere"},
            {"Origin": "null"},
        ],
        ids=str,
    )
    def test_a_request_from_another_site_is_refused(
        self, desk: Desk, flowers: Flowers, site: dict[str, str]
    ) -> None:
        desk.node("n1", 1)
        refused = (403, "A page of another site may not do this")
        assert flowers.open.post("/minsched/do/drain?of=n1", **site) == refused
        assert desk.info("n1").state == "free"

    def test_requests_of_the_page_itself_and_of_programs_are_accepted(
        self, desk: Desk, flowers: Flowers
    ) -> None:
        here = {"Origin": flowers.open.root}
        for site in ({}, here, {**here, "Sec-Fetch-Site": "same-origin"}):
            answer = flowers.open.post("/minsched/do/drain?of=n1", **site)
            assert answer == (403, "Read only mode is enabled")

    def test_no_header_permits_another_site_to_read(self, desk: Desk, flowers: Flowers) -> None:
        for path in ("nodes", "data/nodes", "data/events"):
            for method in ("GET", "OPTIONS"):
                headers = flowers.open.headers(method, f"/minsched/{path}")
                assert not [name for name in headers if name.startswith("access-control")], path
        for path in ("/metrics", "/minsched/do/drain?of=n1"):
            headers = flowers.open.headers("OPTIONS", path)
            assert not [name for name in headers if name.startswith("access-control")], path

    def test_another_site_cannot_show_a_page_in_a_frame(self, desk: Desk, flowers: Flowers) -> None:
        """In a frame a visitor could click on an invisible action."""
        for page in PAGES:
            headers = flowers.open.headers("GET", f"/minsched/{page}")
            assert headers["content-security-policy"] == "frame-ancestors 'self'", page


class TestBehindAPassword:
    def test_requests_without_the_password_are_refused(self, node: Fleet, flowers: Flowers) -> None:
        for path in ("/minsched/nodes", "/minsched/data/nodes", "/minsched/why?of=t"):
            assert flowers.closed.get(path)[0] == 401, path
        assert flowers.closed.post("/minsched/do/drain?of=real-1")[0] == 401

    def test_pages_and_links_have_the_prefix(self, node: Fleet, flowers: Flowers) -> None:
        _, text = flowers.closed.get("/workers", **flowers.closed.credentials)
        assert 'href="/tools/flower/minsched/nodes"' in text
        status, text = flowers.closed.get("/minsched/nodes", **flowers.closed.credentials)
        assert status == 200
        for path in ("data/nodes?of=", "static/minsched.js", "static/minsched.css", "pools", ""):
            assert f'"/tools/flower/minsched/{path}' in text
        assert flowers.closed.get("/minsched/static/minsched.js")[0] == 200

    def test_a_user_can_drain_nodes_and_pause_pools(self, node: Fleet, flowers: Flowers) -> None:
        def post(action: str, **headers: str) -> int:
            return flowers.closed.post(
                f"/minsched/do/{action}", **flowers.closed.credentials, **headers
            )[0]

        def states() -> tuple[bool, bool]:
            [pool], real = node.views.pools(), node.node("real-1")
            return bool(real and real.draining), pool.paused

        assert (post("drain?of=real-1"), post("pause?of=asr"), states()) == (200, 200, (True, True))
        assert (post("undrain?of=real-1"), post("resume?of=asr")) == (200, 200)
        assert states() == (False, False)
        assert (post("drain?of=nobody"), post("pause?of=nowhere")) == (404, 404)
        for site in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://elsewhere"}):
            assert (post("drain?of=real-1", **site), states()) == (403, (False, False))

    def test_no_page_shows_the_password_of_the_database(
        self, node: Fleet, flowers: Flowers
    ) -> None:
        """Flower shows the configuration of each worker."""

        def ask(path: str) -> str:
            return flowers.closed.get(path, **flowers.closed.credentials)[1]

        wait_for(lambda: "minsched_database_url" in ask("/api/workers?refresh=1"), "the worker")
        for path in ("/api/workers", "/worker/celery@real-1", "/workers", "/minsched/data/nodes"):
            assert "s3cret" not in ask(path), path
        assert "s3cret" not in node.log("real-1")

    @needs_browser
    def test_the_buttons_drain_and_undrain_a_node(
        self, node: Fleet, flowers: Flowers, browser: Browser
    ) -> None:
        pages = flowers.closed.root.replace("//", "//ops:secret@") + "/minsched"
        for page in ("pools", "nodes"):
            browser.open(f"{pages}/{page}", 400)
            assert browser.overflow() <= 0, page
        browser.script("document.querySelector('[data-action=drain]').click()")
        browser.wait_text("[data-table=nodes]", "draining")
        browser.script("document.querySelector('[data-action=undrain]').click()")
        browser.wait_text("[data-table=nodes]", "free")
        assert browser.errors() == []


def test_flower_shows_a_node_as_a_worker_and_a_dead_node_as_offline(
    node: Fleet, flowers: Flowers
) -> None:
    def worker(flower: FlowerProcess) -> Any:
        _, text = flower.get("/workers?json=1", **flowers.closed.credentials)
        return {w["hostname"]: w["status"] for w in json.loads(text)["data"]}

    for flower in (flowers.plain, flowers.closed):
        wait_for(lambda flower=flower: worker(flower) == {"celery@real-1": True}, "the worker")
    rows = data(flowers.closed, "nodes", **flowers.closed.credentials)["tables"]["nodes"]
    assert [(row["id"], row["state"], row["slots"]) for row in rows] == [("real-1", "free", 2)]
    node.stop("real-1", signal.SIGKILL)
    for flower in (flowers.plain, flowers.closed):
        wait_for(
            lambda flower=flower: worker(flower) == {"celery@real-1": False},
            "the worker to be offline",
        )


def test_flower_answers_while_redis_does_not_reply(
    desk: Desk, web: NodeServer, flowers: Flowers
) -> None:
    assert web.process
    web.process.send_signal(signal.SIGSTOP)
    try:
        asking = threading.Thread(target=flowers.open.get, args=["/minsched/data/nodes"])
        asking.start()
        for _ in range(20):  # Flower gets the waiting request before the last of these requests
            assert flowers.open.get("/minsched/nodes")[0] == 200
        assert asking.is_alive()
    finally:
        web.process.send_signal(signal.SIGCONT)
    asking.join(20)


@needs_browser
def test_a_page_reports_an_unreachable_redis_and_recovers(
    desk: Desk, web: NodeServer, browser: Browser, look: Any
) -> None:
    look("nodes")
    web.stop(signal.SIGKILL)
    try:
        browser.wait_text("#minsched-error", "The scheduler does not answer")
        browser.wait_text("#minsched-status", "Update failed")
    finally:
        web.start()
    browser.wait_text("#minsched-status", "Updated")
    assert browser.text("#minsched-error") == ""
    assert any("503" in error for error in browser.errors())


def test_without_flower_the_command_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flower", None)  # type: ignore[arg-type]
    for module in ("server", "handlers"):
        monkeypatch.delitem(sys.modules, f"celery_minsched.web.{module}", raising=False)
    result = CliRunner().invoke(flower_command, [])
    assert result.exit_code == 2
    assert "pip install 'celery-minsched[flower]'" in result.output
