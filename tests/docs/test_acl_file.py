"""The roles of deploy/redis-acl.conf have the commands and keys of the scripts that they call."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest

from celery_minsched.core import lua_source
from celery_minsched.core.key_contents import HOLDS
from celery_minsched.core.keys import Keys
from celery_minsched.core.lua_source import spell_keys

from ..support.acl import rules_of
from ..support.fleet import ROOT
from ..support.server import Server

CONF = ROOT / "deploy" / "redis-acl.conf"
KEYS = Keys()

#: The scripts of the migration commands. Only an administrator calls them.
ADMIN_SCRIPTS = {"adopt_task", "carry_job", "carry_language"}
SCRIPTS = {
    "producer": {"dispatch_task", "release_job", "set_language_pools"},
    "node": set(lua_source.names()) - ADMIN_SCRIPTS,
}
#: The keys that a script names but does not use for this role: a waiting job has no message at a
#: node.
UNTOUCHED: dict[str, set[str]] = {
    "producer": {"node_unacked", "node_unacked_index", "node_acked"},
    "node": set(),
}

#: The commands that redis-py, kombu, Celery's result backend and Python code here send.
_CLIENT = (
    "auth hello ping multi exec eval evalsha script|load script|exists mget setex hgetall brpop "
    "publish subscribe unsubscribe "
)
BESIDE = {
    "producer": _CLIENT + "llen",
    "node": _CLIENT + "watch unwatch info expire hscan blmove lrange psubscribe punsubscribe",
}


def is_named(source: str, name: str) -> bool:
    """True if a script names keys of this family."""
    ids = ["ID"] * len(HOLDS[name][0])
    spelled = re.escape(spell_keys(f"key.{name}({', '.join(ids)})"))
    return re.search(spelled.replace("ID", ".+?"), source) is not None


def keys_of(role: str) -> dict[str, str]:
    """An example key of each family that the role's scripts name."""
    sources = [lua_source.source(name) for name in SCRIPTS[role]]
    return {
        name: KEYS(name, *["a:b" if id == "src:tgt" else "x" for id in HOLDS[name][0]])
        for name in HOLDS
        if any(is_named(source, name) for source in sources)
    }


@pytest.mark.parametrize("role", SCRIPTS)
def test_a_role_has_the_keys_of_its_scripts(role: str) -> None:
    named = keys_of(role)
    patterns = [rule[1:] for rule in rules_of(role) if rule.startswith("~")]
    for name in named.keys() - UNTOUCHED[role]:
        assert any(fnmatchcase(named[name], pattern) for pattern in patterns), named[name]
    assert named.keys() >= UNTOUCHED[role]
    own = [pattern for pattern in patterns if pattern.startswith(("scheduler:", "minsched."))]
    keys = [*named.values(), "scheduler:layout", "scheduler:"]  # the last one is the prefix
    assert [p for p in own if not any(fnmatchcase(key, p) for key in keys)] == []


@pytest.mark.parametrize("role", SCRIPTS)
def test_a_role_has_the_commands_of_its_scripts_and_of_celery(role: str, server: Server) -> None:
    with server.client() as client:
        commands = client.command()
    text = "".join(map(lua_source.source, SCRIPTS[role]))
    called = {word.lower() for word in re.findall(r"'([A-Z]+)'", text)} & commands.keys()
    assert "zadd" in called
    granted = {rule[1:] for rule in rules_of(role) if rule.startswith("+")}
    assert granted == called | set(BESIDE[role].split())
