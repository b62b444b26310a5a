"""Flower as a process, with or without our pages, and a real browser."""

from __future__ import annotations

import base64
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from .fleet import ROOT, Fleet, app_environment, wait_for
from .server import Server, free_port

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")


class FlowerProcess:
    """``celery minsched flower`` for tests/support/app.py, or ``celery flower`` if ``plain``."""

    def __init__(
        self,
        broker: str,
        *options: str,
        plain: bool = False,
        prefix: str = "",
        auth: str = "",
        **environment: str,
    ) -> None:
        self.port = free_port()
        self.auth = auth
        self.root = f"http://127.0.0.1:{self.port}" + (f"/{prefix}" if prefix else "")
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        url_options = [f"--url_prefix={prefix}"] * bool(prefix) + [f"--basic_auth={auth}"] * bool(
            auth
        )
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "tests.support.app"),
                *([] if plain else ["minsched"]),
                *("flower", f"--port={self.port}", "--address=127.0.0.1", *url_options, *options),
            ],
            cwd=ROOT,
            env={**app_environment(broker), **environment},
            stdout=self.log,
            stderr=self.log,
        )

    def wait_ready(self) -> None:
        def answers() -> bool:
            assert self.process.poll() is None, self.output()
            try:
                return self.get("/healthcheck")[0] == 200
            except OSError:
                return False

        wait_for(answers, "Flower to answer")

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text."""
        return self._ask(urllib.request.Request(self.root + path, headers=headers))

    def post(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text."""
        return self._ask(urllib.request.Request(self.root + path, b"", headers, method="POST"))

    def headers(self, method: str, path: str) -> dict[str, str]:
        """The response headers of a request from another site, in lower case."""
        request = urllib.request.Request(self.root + path, method=method)
        request.add_header("Origin", "http://elsewhere")
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as refused:
            answer = refused
        with answer:
            return {name.lower(): value for name, value in answer.headers.items()}

    def _ask(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()

    @property
    def credentials(self) -> dict[str, str]:
        """Request headers with the password."""
        return {"Authorization": "Basic " + base64.b64encode(self.auth.encode()).decode()}

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Browser:
    """Debian's chromium without a screen."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(prefix="minsched-chromium-")
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in (
            *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
            *("disable-background-networking", "disable-component-update", "disable-sync"),
            *("disable-dev-shm-usage", "hide-scrollbars", f"user-data-dir={self.profile.name}"),
        ):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))

    def open(self, url: str, width: int = 1280, height: int = 720) -> None:
        """Open a page in a window of this size, and wait until it shows its data."""
        self.resize(width, height)
        self.driver.get(url)
        self.wait_text("#minsched-status", "Updated")

    def resize(self, width: int, height: int = 720) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def script(self, code: str, *args: Any) -> Any:
        return self.driver.execute_script(code, *args)

    def text(self, selector: str = "#minsched") -> str:
        return str(
            self.script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        )

    def wait_text(self, selector: str, text: str, patience: float = 60.0) -> None:
        try:
            wait_for(lambda: text in self.text(selector), patience=patience)
        except AssertionError as exc:
            there = f"{self.text(selector)!r}, errors: {self.errors()}"
            raise AssertionError(f"no {text!r} in {selector}, there is {there}") from exc

    def rows(self, table: str) -> list[list[str]]:
        """The visible text of a table's cells."""
        cells: list[list[str]] = self.script(
            "return [...document.querySelectorAll(`[data-table=${arguments[0]}] tbody tr`)]"
            ".map(row => [...row.cells].filter(cell => cell.offsetParent)"
            ".map(cell => cell.innerText.replace(/\\s+/g, ' ').trim()))",
            table,
        )
        return cells

    def overflow(self) -> int:
        """Pixels by which the content is wider than the window."""
        return int(
            self.script(
                "return Math.max(document.documentElement.scrollWidth, "
                "...[...document.querySelectorAll('#minsched *')]"
                ".map(place => Math.floor(place.getBoundingClientRect().right))) - innerWidth"
            )
        )

    def errors(self) -> list[str]:
        """The browser's errors since the last call."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        """A picture of the whole page, with the part below the window."""
        time.sleep(0.4)  # fonts, and bootstrap's transitions
        size = self.script("return document.documentElement.scrollHeight")
        width = self.script("return innerWidth")
        clip = {"x": 0, "y": 0, "scale": 1, "width": width, "height": size}
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.driver.quit()
        self.profile.cleanup()


class NodeServer(Server):
    """A server whose second database is for a real node, and the Flowers that watch it."""

    @property
    def nodes_url(self) -> str:
        return self.url.removesuffix("0") + "1"


class Flowers:
    """Three instances of Flower and a real node. They start together: each takes seconds."""

    def __init__(self, server: NodeServer) -> None:
        #: Without a password, and read-only.
        self.open = FlowerProcess(server.url, "--read_only", FLOWER_UNAUTHENTICATED_API="true")
        #: With a password and a prefix, on the database of the real node.
        self.closed = FlowerProcess(server.nodes_url, prefix="tools/flower", auth="ops:secret")
        #: Without the pages of this project.
        self.plain = FlowerProcess(server.nodes_url, plain=True)
        place = SimpleNamespace(url=server.nodes_url)
        # By the setting's former name. Redis accepts any password of a user without one.
        database = server.nodes_url.replace("//", "//default:s3cret@")
        celery = {"minsched_redis_url": database}
        self.fleet = Fleet(place, celery=celery)  # type: ignore[arg-type]
        self.fleet.start("real-1", "-P", "threads")

    def close(self) -> None:
        for flower in (self.open, self.closed, self.plain):
            flower.process.terminate()
        self.fleet.close()
        for flower in (self.open, self.closed, self.plain):
            flower.close()
