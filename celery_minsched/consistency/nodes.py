"""Rules about a node, its indexes, and the remaining keys of absent nodes (invariants 1, 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from redis.exceptions import NoPermissionError

from ..core.stored import Command
from ..plugin.messages import job_id_of, read_message
from .records import Key, NodeRecord
from .state_scan import StateScan, is_present
from .violation import Violation

#: Keys that exist for registered nodes, and kombu's keys of unacknowledged messages.
NODE_KEYS = ("node_info", "node_runtime", "node_jobs", "node_queue", "node_taken")
BOOKS = ("node_unacked", "node_unacked_index", "node_acked")
FREE = ("pool_free", "capable_free")
INDEXES = ("pool_members", "capable_members", *FREE)
_SAMPLE = 20  # messages of a queue that are read


def check_nodes(scan: StateScan) -> Iterator[Violation]:
    """Compare each node with its record, and each index with the records of its nodes."""
    node_ids = {node_id for _, node_id in scan.members("nodes")}
    node_ids.update(key.ids[0] for key in scan.keys_of_kind(*NODE_KEYS, *BOOKS))
    suspects = list(_suspects(scan, node_ids))
    for (node_id, before), (values, *answers) in scan.read(
        ((node_id, scan.nodes[node_id]), _questions(scan, node_id, scan.nodes[node_id]))
        for node_id in suspects
    ):
        node = NodeRecord.of(node_id, values)
        if node and node.broken:
            yield _unreadable(scan, node)
        elif _links(scan, node) == _links(scan, before):  # else it has registered again
            state = _NodeState.of(node_id, node, answers)
            _note_state(scan, state)
            yield from _violations(scan, state)
    yield from _stale_members(scan)


class _NodeState(NamedTuple):
    """The state of a node in Redis, in the order of :func:`_questions`."""

    node_id: str
    node: NodeRecord | None
    current_jobs: str | None
    taken: int  # size of the job set
    score: float | None  # in the list of nodes, negative for a dead node
    rescue: float | None  # score in the list of rescues
    queues: int  # its message lists that exist
    lost: int  # 1 if lost jobs are to be reported
    link_answers: tuple[Any, ...]

    @classmethod
    def of(cls, node_id: str, node: NodeRecord | None, answers: list[Any]) -> _NodeState:
        """The state from the answers to these commands."""
        current_jobs, taken, score, rescue, queues, lost, *links = answers
        return cls(node_id, node, current_jobs, taken, score, rescue, queues, lost, tuple(links))

    @property
    def is_absent(self) -> bool:
        """Is the node dead or unregistered?"""
        return self.node is None or (self.score is not None and self.score < 0)

    @property
    def has_free_slot(self) -> bool:
        """Has the node a free slot?"""
        return self.node is not None and self.taken < self.node.max_jobs

    @property
    def is_free(self) -> bool:
        """Must the node be in the sets of free nodes?"""
        return bool(
            self.node and self.node.online and not self.node.draining and self.has_free_slot
        )


class _Link(NamedTuple):
    """A key in which a node must be, always or only while it is free."""

    question: Command
    code: str
    only_while_free: bool
    sentence: str  # if the node is missing
    other_keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """The key."""
        return str(self.question[1])


def _questions(scan: StateScan, node_id: str, node: NodeRecord | None) -> list[Command]:
    keys = scan.keys
    queues = [keys("node_queue", node_id) + suffix for suffix in keys.suffixes]
    return [
        *_record(scan, node_id),
        ("ZCARD", keys("node_jobs", node_id)),
        ("ZSCORE", keys("nodes"), node_id),
        ("ZSCORE", keys("rescues"), node_id),
        ("EXISTS", keys("node_taken", node_id), *queues),
        ("EXISTS", keys("lost")),
        *(link.question for link in _links(scan, node)),
    ]


def _record(scan: StateScan, node_id: str) -> list[Command]:
    return [
        NodeRecord.command(scan.keys, node_id),
        ("HGET", scan.keys("node_runtime", node_id), "current_jobs"),
    ]


def _links(scan: StateScan, node: NodeRecord | None) -> list[_Link]:
    """The keys in which the node must be, according to its record."""
    if node is None:
        return []
    keys, node_id = scan.keys, node.node_id
    links = []
    for pool, capability in sorted(node.advertised_indexes):
        ids = (pool, capability) if capability else (pool,)
        kind = "capable" if capability else "pool"
        members, free = keys(f"{kind}_members", *ids), keys(f"{kind}_free", *ids)
        missing = f"node {node_id} is missing from an index that it advertises"
        links.append(_Link(("SISMEMBER", members, node_id), "member_missing", False, missing, ()))
        missing = f"node {node_id} takes jobs and has a free slot but is not in {free}"
        jobs = (keys("node_jobs", node_id),)
        links.append(_Link(("ZSCORE", free, node_id), "free_index", True, missing, jobs))
    for pool in sorted(node.pools):
        missing = f"pool {pool} contains node {node_id} but is missing from the list of pools"
        links.append(_Link(("SISMEMBER", keys("pools"), pool), "pool_unlisted", False, missing, ()))
    for pool, pair in sorted(node.language_pairs):
        missing = f"node {node_id} advertises {pair} in pool {pool} but is not recorded for it"
        speakers = keys("lang_speakers", pair, pool)
        links.append(_Link(("SISMEMBER", speakers, node_id), "speaker_missing", False, missing, ()))
    return links


def _suspects(scan: StateScan, node_ids: Iterable[str]) -> Iterator[str]:
    """The nodes that look wrong in reads that are not atomic."""
    scan.load("nodes", "rescues", "pools", "lang_speakers", *INDEXES)
    records = ((node_id, _record(scan, node_id)) for node_id in node_ids)
    for node_id, (values, current_jobs) in scan.read_loosely(records):
        node = scan.nodes[node_id] = NodeRecord.of(node_id, values)
        recalled = map(scan.recall, _questions(scan, node_id, node)[2:])
        state = _NodeState.of(node_id, node, [current_jobs, *recalled])
        if (node and node.broken) or any(_violations(scan, state)):
            yield node_id
        else:
            _note_state(scan, state)


def _note_state(scan: StateScan, state: _NodeState) -> None:
    """Record for the other rules if the node is free, dead or gone."""
    if state.has_free_slot:
        scan.free.add(state.node_id)
    if state.is_absent and state.node:
        scan.dead.add(state.node_id)
        if state.rescue is None:
            scan.gone.add(state.node_id)


def _violations(scan: StateScan, state: _NodeState) -> Iterator[Violation]:
    for rule in _RULES:
        yield from rule(scan, state)


def _left_behind(scan: StateScan, state: _NodeState) -> Iterator[Violation]:
    """An absent node without a rescue has no jobs and no messages of jobs.

    A program may send a message to a node by name. That message waits until the node is back.
    """
    keys, node_id = scan.keys, state.node_id
    # Only the names: a role that only reads may not read the messages that nodes have taken.
    has_books = any(scan.has_key(keys(book, node_id)) for book in BOOKS)
    if not state.is_absent or state.rescue is not None:
        return
    if not (state.taken or state.queues or (has_books and not state.lost)):
        return
    queues = [keys("node_queue", node_id) + suffix for suffix in keys.suffixes]
    queues.append(keys("node_taken", node_id))
    if state.taken or has_books or _has_jobs(scan, queues):
        yield Violation(
            code="left_behind",
            sentence=f"node {node_id} is absent, and no node rescues its jobs and messages",
            keys=(keys("node_jobs", node_id), *queues, *(keys(book, node_id) for book in BOOKS)),
            subject=("node", node_id),
        )
    elif state.node is None:
        yield Violation(
            code="foreign_message",
            sentence=f"node {node_id} does not exist, but its queue contains messages of no job",
            keys=tuple(queues),
            remedy="Another program put them there. Start a node with this id, or DEL the lists.",
        )


def _has_jobs(scan: StateScan, queues: list[str]) -> bool:
    """Does one of the next messages belong to a job?"""
    try:
        answers = scan.read((queue, [("LRANGE", queue, -_SAMPLE, -1)]) for queue in queues)
        messages = [raw for _, [sample] in answers for raw in sample]
    except NoPermissionError:  # the role may not read messages
        return True
    return any(job_id_of(read_message(raw).get("headers")) for raw in messages)


def _without_record(scan: StateScan, state: _NodeState) -> Iterator[Violation]:
    keys, node_id = scan.keys, state.node_id
    if state.node is None and (state.score is not None or state.current_jobs is not None):
        yield Violation(
            code="node_without_record",
            sentence=f"node {node_id} has no record, but it is listed or counted",
            keys=(keys("node_info", node_id), keys("nodes"), keys("node_runtime", node_id)),
            subject=("node", node_id),
        )


def _unlisted(scan: StateScan, state: _NodeState) -> Iterator[Violation]:
    keys, node_id = scan.keys, state.node_id
    if state.node and state.score is None:
        yield Violation(
            code="node_unlisted",
            sentence=f"node {node_id} is missing from the list of nodes",
            keys=(keys("nodes"), keys("node_info", node_id)),
            subject=("node", node_id),
        )


def _slot_count(scan: StateScan, state: _NodeState) -> Iterator[Violation]:
    keys, node_id = scan.keys, state.node_id
    if state.node and (state.current_jobs or "0") != str(state.taken):
        yield Violation(
            code="slot_count",
            sentence=f"node {node_id}: current_jobs is {state.current_jobs}, but the size of its "
            f"job set is {state.taken}",
            keys=(keys("node_runtime", node_id), keys("node_jobs", node_id)),
            subject=("node", node_id),
        )


def _linked(scan: StateScan, state: _NodeState) -> Iterator[Violation]:
    node_id = state.node_id
    for link, answer in zip(_links(scan, state.node), state.link_answers, strict=True):
        is_there, must_be_there = is_present(link.question, answer), True
        if link.only_while_free:
            must_be_there = state.is_free
        if is_there == must_be_there:
            continue
        extra = f"node {node_id} takes no jobs or has no free slot but is in {link.key}"
        yield Violation(
            code=link.code,
            sentence=link.sentence if must_be_there else extra,
            keys=(link.key, scan.keys("node_info", node_id), *link.other_keys),
            subject=("node", node_id),
        )


_RULES: tuple[Callable[[StateScan, _NodeState], Iterator[Violation]], ...] = (
    _left_behind,
    _without_record,
    _unlisted,
    _slot_count,
    _linked,
)


def _unreadable(scan: StateScan, node: NodeRecord) -> Violation:
    return Violation(
        code="node_unreadable",
        sentence=f"the record of node {node.node_id} is unreadable: {node.broken}",
        keys=(scan.keys("node_info", node.node_id),),
        remedy="Start the node again: it writes a new record when it registers. If the node does "
        "not exist, DEL the key and run check --repair.",
    )


def _stale_members(scan: StateScan) -> Iterator[Violation]:
    """Members of indexes that the nodes' records do not advertise."""
    suspects = (
        (key, node_id)
        for key, node_id in scan.members(*INDEXES, "lang_speakers")
        if not _advertises(scan.nodes.get(node_id), key, node_id)
    )
    for (key, node_id), (values, answer) in scan.read(
        (
            (key, node_id),
            [NodeRecord.command(scan.keys, node_id), _membership(key, node_id)],
        )
        for key, node_id in suspects
    ):
        is_there = is_present(_membership(key, node_id), answer)
        if is_there and not _advertises(NodeRecord.of(node_id, values), key, node_id):
            yield Violation(
                code="stale_member",
                sentence=f"node {node_id} is in {key.key}, but its record does not advertise this",
                keys=(key.key, scan.keys("node_info", node_id)),
                subject=("node", node_id, *_index_lines(key)),
            )


def _membership(key: Key, node_id: str) -> Command:
    return ("ZSCORE" if key.name in FREE else "SISMEMBER", key.key, node_id)


def _index_lines(key: Key) -> tuple[str, ...]:
    """The index as repair_node takes it: as a line of `offers`, or as a line of `speaks`."""
    first, second = key.as_index
    return (
        ("", f"{second}\t{first}\n") if key.name == "lang_speakers" else (f"{first}\t{second}\n",)
    )


def _advertises(node: NodeRecord | None, key: Key, node_id: str) -> bool:
    """Does the node's record advertise this index or this language pair?"""
    if key.name == "lang_speakers":
        pair, pool = key.ids
        return node_id == "*" or (node is not None and (pool, pair) in node.language_pairs)
    return node is not None and key.as_index in node.advertised_indexes
