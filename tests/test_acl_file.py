"""The roles of deploy/redis-acl.conf have the commands and keys of the scripts that they run."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from celery_minsched import scripts
from celery_minsched.keys import HOLDS, Keys, spell_keys

from .fleet import ROOT
from .server import Server

CONF = ROOT / "deploy" / "redis-acl.conf"
KEYS = Keys()

#: The scripts that an administrator runs: they move in and out, see docs/migration.md.
BY_THE_ADMIN = {"adopt_task", "carry_job", "carry_language"}
SCRIPTS = {
    "producer": {"dispatch_task", "release_job", "set_language_pools"},
    "node": set(scripts.names()) - BY_THE_ADMIN,
}
#: The keys that a script names and does not touch for this role: a job that waits has no message
#: at a node.
UNTOUCHED = {"producer": {"node_unacked", "node_unacked_index", "node_acked"}, "node": set()}


def rules_of(role: str) -> list[str]:
    [line] = re.findall(rf"^user {role} (.*)$", CONF.read_text(), re.MULTILINE)
    return list(line.split())


def is_named(source: str, name: str) -> bool:
    """Does a script name keys of this family?"""
    ids = ["ID"] * len(HOLDS[name][0])
    spelled = re.escape(spell_keys(f"key.{name}({', '.join(ids)})"))
    return re.search(spelled.replace("ID", ".+?"), source) is not None


@pytest.mark.parametrize("role", SCRIPTS)
def test_a_role_has_the_keys_of_its_scripts(role: str) -> None:
    sources = [scripts.source(name) for name in SCRIPTS[role]]
    named = {name for name in HOLDS if any(is_named(source, name) for source in sources)}
    patterns = [rule[1:] for rule in rules_of(role) if rule.startswith("~")]
    for name in named - UNTOUCHED[role]:
        key = KEYS(name, *["a:b" if id == "src:tgt" else "x" for id in HOLDS[name][0]])
        assert any(fnmatchcase(key, pattern) for pattern in patterns), key
    assert named >= UNTOUCHED[role]


@pytest.mark.parametrize("role", SCRIPTS)
def test_a_role_has_the_commands_of_its_scripts(role: str, server: Server) -> None:
    with server.client() as client:
        known = client.command()
    text = "".join(map(scripts.source, SCRIPTS[role]))
    called = {word.lower() for word in re.findall(r"'([A-Z]+)'", text)} & known.keys()
    assert "zadd" in called
    assert [word for word in sorted(called) if f"+{word}" not in rules_of(role)] == []
