"""What kombu keeps of queues of nodes that are not there (seen in kombu 5.7)."""

from __future__ import annotations

from collections.abc import Iterator

from .breach import Breach
from .look import Key, Look

#: What kombu's keys of bindings begin with; then comes the exchange, or the queue's name.
BINDINGS = ("_kombu.binding.", "_kombu.binding_permanent.")
#: The exchange of commands to workers, by Celery's usual ``control_exchange``.
CONTROL = "celery.pidbox"


def check_leftovers(look: Look) -> Iterator[Breach]:
    """Bindings and mailboxes; after :func:`~celery_minsched.consistency.nodes.check_nodes`."""
    mailboxes = []
    for key in sorted(look.bindings):
        name = key.removeprefix(look.keys.queue_prefix)
        exchange = next((name.removeprefix(b) for b in BINDINGS if name.startswith(b)), "")
        if exchange == CONTROL:
            mailboxes.append(Key("mailboxes", (), key))
        yield from _binding(look, key, exchange)
    for mailbox, member, _ in look.items_of(mailboxes):
        queue = member.split(look.keys.sep)[-1]
        node_id = queue.removeprefix("celery@").partition(".celery.pidbox")[0]
        if queue == f"celery@{node_id}.celery.pidbox" and node_id in look.gone:
            yield Breach(
                code="stray_mailbox",
                sentence=f"node {node_id} is not there, and its worker's mailbox is",
                keys=(mailbox.key,),
                subject=("member", mailbox.key, member),
            )


def _binding(look: Look, key: str, exchange: str) -> Iterator[Breach]:
    """The scheduler declares no queue. Whoever sends to a node's by name does, and may do so while
    the node is known.
    """
    parsed = look.keys.parse(look.keys.queue_prefix + exchange)
    if parsed is None or parsed[0] not in ("node_queue", "job_queue"):
        return
    name, (owner,), _ = parsed
    if name == "job_queue" or look.nodes.get(owner) is None:
        yield Breach(
            code="stray_binding",
            sentence=f"{exchange} is bound in the broker, and no node consumes it",
            keys=(key,),
            subject=("key", key),
        )
