"""Rules about kombu's keys for the queues of absent nodes (seen in kombu 5.7)."""

from __future__ import annotations

from collections.abc import Iterator

from .records import Key
from .state_scan import StateScan
from .violation import Violation

#: Prefixes of kombu's keys of bindings. The exchange, or the queue's name, follows.
BINDINGS = ("_kombu.binding.", "_kombu.binding_permanent.")
#: The exchange of commands to workers: the default of Celery's ``control_exchange``.
CONTROL = "celery.pidbox"


def check_leftovers(scan: StateScan) -> Iterator[Violation]:
    """Check bindings and mailboxes, after :func:`.nodes.check_nodes`."""
    mailboxes = []
    for key in sorted(scan.bindings):
        name = key.removeprefix(scan.keys.queue_prefix)
        exchange = next((name.removeprefix(b) for b in BINDINGS if name.startswith(b)), "")
        if exchange == CONTROL:
            mailboxes.append(Key("mailboxes", (), key))
        yield from _binding(scan, key, exchange)
    for mailbox, member, _ in scan.items_of(mailboxes):
        queue = member.split(scan.keys.sep)[-1]
        node_id = queue.removeprefix("celery@").partition(".celery.pidbox")[0]
        if queue == f"celery@{node_id}.celery.pidbox" and node_id in scan.gone:
            yield Violation(
                code="stray_mailbox",
                sentence=f"node {node_id} is absent, but its worker's mailbox still exists",
                keys=(mailbox.key,),
                subject=("member", mailbox.key, member),
            )


def _binding(scan: StateScan, key: str, exchange: str) -> Iterator[Violation]:
    """The scheduler declares no queue. A program that sends to a node's queue by name declares it,
    and may do so while the node is registered.
    """
    parsed = scan.keys.parse(scan.keys.queue_prefix + exchange)
    if parsed is None or parsed[0] not in ("node_queue", "job_queue"):
        return
    name, (owner,), _ = parsed
    if name == "job_queue" or scan.nodes.get(owner) is None:
        yield Violation(
            code="stray_binding",
            sentence=f"the broker binds {exchange}, but no node consumes it",
            keys=(key,),
            subject=("key", key),
        )
