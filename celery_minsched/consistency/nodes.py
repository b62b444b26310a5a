"""A node, the indexes in which it stands, and what one that is gone has left (invariants 1, 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from redis.exceptions import NoPermissionError

from ..plugin.messages import job_id_of, read_message
from .breach import Breach
from .look import Command, Index, Key, Look, Node

#: Keys of a node that say that there is or was one.
NODE_KEYS = ("node_info", "node_runtime", "node_jobs", "node_queue", "node_taken")
_SOME = 20  # messages of a queue that are looked at
FREE = ("pool_free", "capable_free")
INDEXES = ("pool_members", "capable_members", *FREE)
BOOKS = ("node_unacked", "node_unacked_index", "node_acked")


def check_nodes(look: Look) -> Iterator[Breach]:
    """Each node against its record, and each index against the nodes' records."""
    names = {node_id for _, node_id in look.members("nodes")}
    for name in (*NODE_KEYS, *BOOKS):
        names.update(key.ids[0] for key in look.met.get(name, {}).values())
    suspects = list(_suspects(look, names))
    for (node_id, node), answers in look.read(
        ((node_id, look.nodes[node_id]), _questions(look, node_id, look.nodes[node_id]))
        for node_id in suspects
    ):
        now = Node.of(node_id, answers[0])
        if now and now.broken:
            yield _unreadable(look, now)
        elif _stated(now) == _stated(node):  # else it registered anew, and other things were to ask
            yield from _judge(look, node_id, now, answers[1:])
    yield from _stale_members(look)
    yield from _stale_pools(look)


def _suspects(look: Look, names: Iterable[str]) -> Iterator[str]:
    """Nodes that do not fit, by what was read once and not in one step."""
    look.load("nodes", "rescues", "pools", "lang_speakers", *INDEXES)
    wanted = ((name, _record(look, name)) for name in names)
    for node_id, (values, count) in look.glance(wanted):
        node = look.nodes[node_id] = Node.of(node_id, values)
        others = _questions(look, node_id, node)[2:]
        if (node and node.broken) or any(
            _judge(look, node_id, node, [count, *map(look.recall, others)])
        ):
            for found in (look.free, look.dead, look.gone):
                found.discard(node_id)
            yield node_id


def _unreadable(look: Look, node: Node) -> Breach:
    return Breach(
        code="node_unreadable",
        sentence=f"the record of node {node.node_id} cannot be read: {node.broken}",
        keys=(look.keys("node_info", node.node_id),),
        remedy="A node writes its record anew when it registers: start it again. If there is no "
        "such node, DEL the key, and run check --repair.",
    )


def _record(look: Look, node_id: str) -> list[Command]:
    return [
        Node.command(look.keys, node_id),
        ("HGET", look.keys("node_runtime", node_id), "current_jobs"),
    ]


def _stated(node: Node | None) -> object:
    return node and (node.offers, node.speaks)


def _indexes(look: Look, node: Node) -> Iterator[tuple[Index, str, str]]:
    """The node's indexes, each with its keys of members and of those that are free."""
    for pool, capability in sorted(node.offers):
        if capability:
            names = (pool, capability)
            yield names, look.keys("capable_members", *names), look.keys("capable_free", *names)
        else:
            yield (pool, ""), look.keys("pool_members", pool), look.keys("pool_free", pool)


def _questions(look: Look, node_id: str, node: Node | None) -> list[Command]:
    keys = look.keys
    queues = [keys("node_queue", node_id) + suffix for suffix in keys.suffixes]
    questions: list[Command] = [
        *_record(look, node_id),
        ("ZCARD", keys("node_jobs", node_id)),
        ("ZSCORE", keys("nodes"), node_id),
        ("ZSCORE", keys("rescues"), node_id),
        ("EXISTS", keys("node_taken", node_id), *queues),
        ("EXISTS", keys("lost")),
    ]
    if node is None:
        return questions
    for _, members, free in _indexes(look, node):
        questions += [("SISMEMBER", members, node_id), ("ZSCORE", free, node_id)]
    questions += [("SISMEMBER", keys("pools"), pool) for pool in sorted(node.pools)]
    questions += [
        ("SISMEMBER", keys("lang_speakers", pair, pool), node_id)
        for pool, pair in sorted(node.speaks)
    ]
    return questions


def _judge(look: Look, node_id: str, node: Node | None, answers: list[Any]) -> Iterator[Breach]:
    keys, subject = look.keys, ("node", node_id)
    info, jobs = keys("node_info", node_id), keys("node_jobs", node_id)
    count, taken, seen, rescue, queues, lost, *rest = answers
    # By their names: a client that may only look may not read messages that nodes have taken.
    books = any(look.is_met(keys(book, node_id)) for book in BOOKS)

    is_absent = node is None or (seen is not None and seen < 0)
    if is_absent and rescue is None and (taken or queues or (books and not lost)):
        yield from _left_behind(look, node_id, taken or books, is_known=node is not None)
    if is_absent and node is not None:
        look.dead.add(node_id)
        if rescue is None:
            look.gone.add(node_id)
    if node is None:
        if seen is not None or count is not None:
            yield Breach(
                code="node_without_record",
                sentence=f"node {node_id} has no record, and is listed or counted",
                keys=(info, keys("nodes"), keys("node_runtime", node_id)),
                subject=subject,
            )
        return
    if seen is None:
        yield Breach(
            code="node_unlisted",
            sentence=f"node {node_id} is not among the nodes, and never found dead",
            keys=(keys("nodes"), info),
            subject=subject,
        )
    if (count or "0") != str(taken):
        yield Breach(
            code="slot_count",
            sentence=f"node {node_id}: current_jobs is {count}, its job set has {taken}",
            keys=(keys("node_runtime", node_id), jobs),
            subject=subject,
        )
    wants = node.online and not node.draining and taken < node.max_jobs
    if taken < node.max_jobs:
        look.free.add(node_id)
    replies = iter(rest)
    for _, members, free in _indexes(look, node):
        is_member, score = bool(next(replies)), next(replies)
        if not is_member:
            yield Breach(
                code="member_missing",
                sentence=f"node {node_id} is no member of what it offers",
                keys=(members, info),
                subject=subject,
            )
        if (score is not None) != wants:
            yield Breach(
                code="free_index",
                sentence=f"node {node_id} is {'' if wants else 'not '}free to take a job, and "
                f"{'not ' if wants else ''}in {free}",
                keys=(free, info, jobs),
                subject=subject,
            )
    for pool in sorted(node.pools):
        if not next(replies):
            yield Breach(
                code="pool_unlisted",
                sentence=f"pool {pool} has node {node_id}, and is not among the pools",
                keys=(keys("pools"), info),
                subject=subject,
            )
    for pool, pair in sorted(node.speaks):
        if not next(replies):
            yield Breach(
                code="speaker_missing",
                sentence=f"node {node_id} says that pool {pool} serves {pair}, and is not noted",
                keys=(keys("lang_speakers", pair, pool), info),
                subject=subject,
            )


def _left_behind(look: Look, node_id: str, has_more: bool, is_known: bool) -> Iterator[Breach]:
    """Of a node that is not there. What somebody sent to this very node waits till it is back."""
    keys = look.keys
    queues = [keys("node_queue", node_id) + suffix for suffix in keys.suffixes]
    queues.append(keys("node_taken", node_id))
    if has_more or _has_jobs(look, queues):
        yield Breach(
            code="left_behind",
            sentence=f"node {node_id} is not there, and no node rescues its jobs and messages",
            keys=(keys("node_jobs", node_id), *queues, *(keys(book, node_id) for book in BOOKS)),
            subject=("node", node_id),
        )
    elif not is_known:
        yield Breach(
            code="foreign_message",
            sentence=f"there is no node {node_id}, and messages of no job lie in its queue",
            keys=tuple(queues),
            remedy="Another program put them there. Start a node of that id, or DEL the lists.",
        )


def _has_jobs(look: Look, queues: list[str]) -> bool:
    """Is one of the next messages a job's?"""
    try:
        answers = look.read((queue, [("LRANGE", queue, -_SOME, -1)]) for queue in queues)
        messages = [raw for _, [some] in answers for raw in some]
    except NoPermissionError:  # one who may not see what tasks are called with
        return True
    return any(job_id_of(read_message(raw).get("headers")) for raw in messages)


def _stale_members(look: Look) -> Iterator[Breach]:
    """Members of indexes whose records do not say so."""
    suspects = (
        (key, node_id)
        for key, node_id in look.members(*INDEXES, "lang_speakers")
        if not _says(look.nodes.get(node_id), key, node_id)
    )
    for (key, node_id), (values, answer) in look.read(
        (
            (key, node_id),
            [
                Node.command(look.keys, node_id),
                ("ZSCORE" if key.name in FREE else "SISMEMBER", key.key, node_id),
            ],
        )
        for key, node_id in suspects
    ):
        is_there = answer is not None if key.name in FREE else answer
        if is_there and not _says(Node.of(node_id, values), key, node_id):
            one, other = key.in_offers
            is_pair = key.name == "lang_speakers"
            yield Breach(
                code="stale_member",
                sentence=f"node {node_id} is in {key.key}, and its record does not say so",
                keys=(key.key, look.keys("node_info", node_id)),
                subject=(
                    *("node", node_id),
                    *(("", f"{other}\t{one}\n") if is_pair else (f"{one}\t{other}\n",)),
                ),
            )


def _says(node: Node | None, key: Key, node_id: str) -> bool:
    """Does the node's record say that it is in this index, or serves this pair?"""
    if key.name == "lang_speakers":
        pair, pool = key.ids
        return node_id == "*" or (node is not None and (pool, pair) in node.speaks)
    return node is not None and key.in_offers in node.offers


def _stale_pools(look: Look) -> Iterator[Breach]:
    """Pools without nodes, and pairs that nobody serves, or that are not known to be served."""
    keys = look.keys
    for pool, [has_nodes] in look.read(
        (pool, [("EXISTS", keys("pool_members", pool))]) for _, pool in look.members("pools")
    ):
        if not has_nodes:
            yield Breach(
                code="pool_without_nodes",
                sentence=f"pool {pool} is among the pools, and has no node",
                keys=(keys("pools"), keys("pool_members", pool)),
                subject=("node", "", f"{pool}\t\n"),
            )
    for (pair, pool), answers in look.read(
        (
            (pair, pool),
            [
                ("EXISTS", keys("lang_speakers", pair, pool)),
                ("SISMEMBER", keys("lang", pair), pool),
                ("SISMEMBER", keys("pool_langs", pool), pair),
            ],
        )
        for pair, pool in _pairs(look)
    ):
        is_said, *noted = map(bool, answers)
        if noted != [is_said, is_said]:
            said = "is said to serve" if is_said else "is not said by anybody to serve"
            yield Breach(
                code="pair_index",
                sentence=f"pool {pool} {said} {pair}, and the indexes do not agree",
                keys=(
                    keys("lang_speakers", pair, pool),
                    keys("lang", pair),
                    keys("pool_langs", pool),
                ),
                subject=("node", "*" if is_said else "", "", f"{pool}\t{pair}\n"),
            )


def _pairs(look: Look) -> list[tuple[str, str]]:
    """Language pairs and pools that are named together anywhere."""
    pairs = {(key.ids[0], key.ids[1]) for key in look.met.get("lang_speakers", {}).values()}
    for key, member in look.members("lang", "pool_langs"):
        pairs.add((key.ids[0], member) if key.name == "lang" else (member, key.ids[0]))
    return sorted(pairs)
