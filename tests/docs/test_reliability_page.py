"""The figures of docs/reliability.md are consistent."""

from __future__ import annotations

from ..support.fleet import ROOT

OUTCOMES = (
    *("ended", "lost, reported", "given up", "revoked"),
    *("child killed", "other error", "no outcome"),
)


def test_each_job_of_the_soak_has_one_outcome() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    _, header, rest = page.partition("| kind | accepted |")
    table = (header + rest).partition("\n\n")[0].splitlines()
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    kinds = {
        row[0]: dict(zip(names[1:], (int(cell.replace(",", "")) for cell in row[1:]), strict=True))
        for row in rows
    }
    for kind, count in kinds.items():
        assert count["accepted"] == sum(count[name] for name in OUTCOMES), kind
    total = kinds.pop("all")
    assert total["accepted"] == 20_000
    assert total == {name: sum(count[name] for count in kinds.values()) for name in total}
