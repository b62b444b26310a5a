"""Makes the pictures of docs/flower.md: ``python -m tests.support.screenshots docs/img``."""

from __future__ import annotations

import json
import random
import sys
from contextlib import closing
from pathlib import Path

from celery_minsched import MinimalSchedulerService

from .desk import Desk, silence
from .flowers import Browser, FlowerProcess
from .server import Server


def busy(desk: Desk) -> str:
    """Nodes in most states, lines, and a waiting task."""
    beat = {
        "gpu-1": {"cpu": 61, "gpu": 97, "mem": 48},
        "gpu-2": {"cpu": 55, "gpu": 91, "mem": 52},
        "gpu-3": {"cpu": 12, "gpu": 40, "mem": 33},
        "cpu-1": {"cpu": 83, "mem": 41},
        "cpu-2": {"cpu": 22, "mem": 18},
        "old-box": {"cpu": 5, "mem": 77},
    }
    speech = [{"id": "asr", "langs": [["zh", "en"], ["en", "zh"]]}]
    desk.node("gpu-1", 4, speech, ["whisper-large", "cuda"])
    desk.node("gpu-2", 4, speech, ["whisper-large", "cuda"])
    desk.node("gpu-3", 8, [*speech, "tts"], ["cuda"])
    desk.node("cpu-1", 2, ["ocr"])
    desk.node("cpu-2", 6, ["ocr", "render"])
    desk.node("old-box", 4, ["render"])
    desk.node("spare", 4, ["render"])
    for node_id, load in beat.items():
        desk.beat(node_id, load_json=json.dumps(load))
    demand = {"pool": None, "src_lang": "zh", "tgt_lang": "en"}
    payload = {"payload_json": json.dumps({"task": "speech.transcribe"})}
    whisper = {"capabilities": ["whisper-large"], **payload}
    for n in range(8):
        desk.dispatch(session_id=f"u{n}", task_id=_uuid(n), **demand, **whisper)
    for n in range(8, 13):
        desk.dispatch(session_id=f"u{n}", task_id=_uuid(n), pool="tts", **payload)
    for n in range(13, 18):
        desk.dispatch(session_id=f"u{n}", task_id=_uuid(n), pool="ocr")
    desk.dispatch(session_id="u18", preferred_node="old-box", pool="render")
    desk.service.drain_node("old-box")
    for node_id, why in (("cpu-3", "stopping"), ("gpu-4", "stuck")):
        desk.node(node_id, 4, ["render"])
        desk.dispatch(preferred_node=node_id, pool="render", **payload)
        desk.beat(node_id, state=why)
    silence(desk, "spare", 60_000)
    desk.service.declare_dead("spare")
    for n in range(20, 26):
        desk.park(session_id=f"u{n}", task_id=_uuid(n), **demand, **whisper)
    for n in range(26, 28):
        desk.park(
            session_id=f"u{n}",
            task_id=_uuid(n),
            pool="ocr",
            capabilities=["tesseract-5"],
            payload_json=json.dumps({"task": "documents.read"}),
        )
    return _uuid(22)


def _uuid(n: int) -> str:
    digits = random.Random(n).getrandbits(128)
    text = f"{digits:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def many(desk: Desk, nodes: int = 200) -> None:
    """Nodes with about half of their slots taken."""
    rng = random.Random(1)
    for n in range(1, nodes + 1):
        slots, pool = rng.choice([2, 4, 8]), rng.choice(["asr", "tts", "ocr"])
        desk.node(f"node-{n}", slots, [pool])
        load = {"cpu": rng.randint(2, 99), "mem": rng.randint(10, 90)}
        desk.beat(f"node-{n}", load_json=json.dumps(load))
        for _ in range(rng.randint(0, slots)):
            desk.dispatch(pool=pool, preferred_node=f"node-{n}")
    for node_id in ("node-17", "node-118"):
        silence(desk, node_id, 90_000)
        desk.service.declare_dead(node_id)
    desk.service.drain_node("node-42")


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with closing(Server()) as server, server.client() as client:
        desk = Desk(MinimalSchedulerService(client))
        flower = FlowerProcess(server.url, auth="ops:secret")
        pages = f"{flower.root.replace('//', '//ops:secret@')}/minsched"
        with closing(flower), closing(Browser()) as browser:
            flower.wait_ready()

            def take(name: str, page: str, width: int = 1280) -> None:
                browser.open(f"{pages}/{page}", width)
                browser.screenshot(directory / f"flower-{name}.png")

            take("empty", "nodes")
            task_id = busy(desk)
            take("busy", "nodes")
            take("dead-node", "node?of=spare")
            take("node", "node?of=gpu-1")
            take("narrow", "nodes", 400)
            take("pools", "pools")
            take("waiting", "waiting")
            take("events", "events")
            take("why", f"why?of={task_id}")
            client.flushall()
            many(desk)
            take("200-nodes", "nodes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
