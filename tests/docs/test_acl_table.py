"""Each cell of the table of roles in docs/security.md is true, on Valkey and on Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis

from ..support.acl import PAGE, ROLES, Guarded, complete_file, programs
from ..support.acl_actions import ACTIONS, fill

ROLES_OF_THE_TABLE = ROLES[1:]  # without the administrator


def table() -> dict[str, tuple[str, ...]]:
    """The cells of each row."""
    _, _, after = PAGE.read_text().partition(f"| | {' | '.join(ROLES_OF_THE_TABLE)} |\n")
    lines = after.partition("\n\n")[0].splitlines()[1:]
    cells = (re.findall(r"[^|]+", line) for line in lines)
    return {row.strip(): tuple(cell.strip() for cell in others) for row, *others in cells}


CELLS = [
    (row, role, cell)
    for row, cells in table().items()
    for role, cell in zip(ROLES_OF_THE_TABLE, cells, strict=True)
]


class Filled(Guarded):
    """A server with the same contents before each cell."""

    def fill(self) -> None:
        """Write the contents."""
        self.admin = redis.Redis(port=self.port, username="admin", password="admin")
        self.users = {role: self.client(username=role, password=role) for role in ROLES}
        with self.client() as admin:
            fill(admin)
        self.first = self.contents()

    def contents(self) -> dict[bytes, bytes]:
        """Every key with its value."""
        keys = sorted(self.admin.keys("*"))
        with self.admin.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.dump(key)
            return dict(zip(keys, pipe.execute(), strict=True))

    def restore(self) -> None:
        """Restore the contents."""
        with self.admin.pipeline(transaction=False) as pipe:
            pipe.flushall()
            for key, value in self.first.items():
                pipe.restore(key, 0, value)
            pipe.execute()

    def attempt(self, row: str, role: str) -> str:
        """Try the row's action. Returns the cell: "yes" or "no"."""
        try:
            ACTIONS[row](self.users[role])
        except redis.ResponseError:
            assert self.denials(), "the error was no missing permission"
            assert self.contents() == self.first
            return "no"
        assert self.denials() == []
        if self.contents() != self.first:
            self.restore()
        return "yes"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Filled]]:
    """A server of each program."""
    conf = complete_file(tmp_path_factory.mktemp("acl") / "redis-acl.conf")
    servers = [Filled(conf, executable) for executable in programs()]
    for server in servers:
        server.fill()
    yield servers
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("row", "role", "cell"), [pytest.param(*cell, id=f"{cell[1]}: {cell[0]}") for cell in CELLS]
)
def test_a_role_has_exactly_the_rights_of_the_table(
    servers: list[Filled], row: str, role: str, cell: str
) -> None:
    assert [server.attempt(row, role) for server in servers] == [cell] * len(servers)


def test_the_table_has_a_row_for_each_action() -> None:
    assert list(table()) == list(ACTIONS)


FUNCTION = """#!lua name=minsched
redis.register_function('put', function(keys, args)
  return redis.call('ZADD', keys[1], 1, args[1])
end)
"""


def test_a_function_has_no_more_rights_than_its_caller(servers: list[Filled]) -> None:
    for server in servers:
        admin, caller = server.admin, server.client(username="caller", password="caller")
        admin.function_load(FUNCTION)
        rules = ["on", ">caller", "-@all", "+fcall", "~scheduler:*"]
        admin.execute_command("ACL", "SETUSER", "caller", *rules)
        with pytest.raises(redis.ResponseError):
            caller.fcall("put", 1, "scheduler:turns", "mine")
        admin.execute_command("ACL", "SETUSER", "caller", "(~scheduler:* +zadd)")
        assert caller.fcall("put", 1, "scheduler:turns", "mine") == 1
        assert caller.zadd("scheduler:turns", {"yours": 1}) == 1
        server.restore()
        server.denials()
