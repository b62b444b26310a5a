"""A server with the users of deploy/redis-acl.conf."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from celery_minsched import MinimalSchedulerService

from .contents import contents
from .fleet import ROOT, make_app
from .server import Server, program

PAGE = ROOT / "docs" / "security.md"
CONF = ROOT / "deploy" / "redis-acl.conf"
ROLES = ("admin", "producer", "node", "operator", "viewer")


def with_passwords(text: str) -> str:
    """The file with passwords. The password of a role is its name."""
    for role in ROLES:
        digest = hashlib.sha256(role.encode()).hexdigest()
        text = text.replace(f"#{role.upper()}_SHA256", f"#{digest}")
    return text


class Guarded(Server):
    """A server with the file. Its ``url`` is for nodes, its ``client`` is the administrator."""

    def __init__(self, conf: Path, executable: str = "") -> None:
        super().__init__("--include", str(conf), executable=executable)

    def url_of(self, role: str) -> str:
        return f"redis://{role}:{role}@127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        return self.url_of("node")

    def client(self, **options: object) -> redis.Redis:
        return super().client(**{"username": "admin", "password": "admin", **options})

    def app_of(self, role: str, **conf: object) -> Celery:
        return make_app(self.url_of(role), **conf)

    def service_of(self, role: str) -> MinimalSchedulerService:
        return MinimalSchedulerService(self.client(username=role, password=role))

    def denials(self) -> list[dict[str, Any]]:
        """The refused commands, without the client's name, which redis-py sends (Redis 7.2)."""
        with self.client() as admin:
            entries = [d for d in admin.acl_log() if d["object"] != "client|setinfo"]
            admin.acl_log_reset()
        return entries

    def contents(self) -> dict[bytes, object]:
        """Each key of each database with its value."""
        entries = {}
        for database in (0, 1):
            with redis.Redis(
                port=self.port, db=database, username="admin", password="admin"
            ) as admin:
                values = contents(admin)
                entries |= {b"%d %b" % (database, key): value for key, value in values.items()}
        return entries


def programs() -> list[str]:
    """The server of the tests, and Redis where it is installed."""
    return list(dict.fromkeys(filter(None, (program(), shutil.which("redis-server")))))


def complete_file(path: Path) -> Path:
    """Write the file with passwords."""
    path.write_text(with_passwords(CONF.read_text()))
    return path


def rules_of(role: str) -> list[str]:
    [line] = re.findall(rf"^user {role} (.*)$", CONF.read_text(), re.MULTILINE)
    return list(line.split())
