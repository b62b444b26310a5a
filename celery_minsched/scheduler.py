"""The scheduler: one straight method a script. All state is in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import redis

from . import errors, scripts
from .keys import Keys
from .models import (
    CompleteTaskRequest,
    CompleteTaskResponse,
    DispatchRequest,
    DispatchResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PoolOffer,
    RegisterNodeRequest,
    RegisterNodeResponse,
)
from .settings import Settings


class MinimalSchedulerService:
    """Registers nodes, dispatches jobs to them and completes jobs, for any Python program.

    ``redis`` is a client of any kind of connection; its ``decode_responses`` does not matter.
    ``queue_prefix`` is kombu's ``global_keyprefix``. Every method raises the
    :class:`~celery_minsched.errors.SchedulerError` of its script's answer, or redis-py's errors.
    """

    def __init__(
        self, redis: redis.Redis, settings: Settings | None = None, queue_prefix: str = ""
    ) -> None:
        self.redis = redis
        self.settings = settings or Settings()
        self.keys = Keys(self.settings.key_prefix, queue_prefix)

    def register_node(self, request: RegisterNodeRequest) -> RegisterNodeResponse:
        """Announce a node, or announce it anew after a change.

        Raises :class:`NodeIdInUse` while a live node of this id is another process.
        """
        pools, capabilities = request.pools, request.capabilities
        code, *values = self._call(
            "register_node",
            request.node_id,
            request.instance,
            request.max_jobs,
            _lua_bool(request.online),
            request.cap_json,
            request.pools_json,
            "".join(f"{pool.id}\t{cap}\n" for pool in pools for cap in ["", *capabilities]),
            "".join(f"{pool.id}\t{pair}\n" for pool in pools for pair in _pairs(pool)),
            self._ms("node_ttl"),
        )
        if code == errors.NodeIdInUse.code:
            raise errors.NodeIdInUse(node_id=request.node_id, holder=values[0], age_ms=values[1])
        return RegisterNodeResponse(node_id=request.node_id, current_jobs=values[0])

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse:
        """Tell that a node lives, how loaded it is, and which jobs it holds.

        Raises :class:`UnknownNode` where Redis does not know the node: register it.
        """
        code, *values = self._call(
            "heartbeat",
            request.node_id,
            request.instance or "",
            _lua_bool(request.online),
            request.load_json,
            request.load,
            self._ms("node_ttl"),
            self._ms("lease"),
            self._ms("history_ttl"),
            "" if request.jobs is None else "jobs",
            *(request.jobs or ()),
        )
        if code == errors.UnknownNode.code:
            raise errors.UnknownNode(node_id=request.node_id)
        return HeartbeatResponse(
            current_jobs=values[0], draining=values[1] == "true", not_yours=values[2:]
        )

    def dispatch_task(self, request: DispatchRequest) -> DispatchResponse:
        """Take a slot for a job on the best node, and say which.

        Raises :class:`NoPoolForLangPair`, :class:`EmptyPool` or :class:`NoAvailableNode`.
        """
        code, *values = self._call(
            "dispatch_task",
            request.session_id,
            request.pool or "",
            json.dumps(request.pairs),
            json.dumps(request.capabilities),
            request.preferred_node or "",
            request.task_id,
            request.token,
            request.src_lang or "",
            request.tgt_lang or "",
            request.payload_json,
            self._ms("node_ttl"),
            self._ms("lease"),
            self._ms("history_ttl"),
            self._ms("session_ttl"),
        )
        if code != "OK":
            raise _no_node(code, values, request)
        node_id, job_id, pool, chosen_by = values
        return DispatchResponse(node_id=node_id, job_id=job_id, pool=pool, chosen_by=chosen_by)

    def complete_task(self, request: CompleteTaskRequest) -> CompleteTaskResponse:
        """Free a job's slot and record how the job ended. A second call changes nothing.

        Raises :class:`UnknownJob`, or :class:`NodeMismatch` where the job is another node's.
        """
        code, *values = self._call(
            "complete_task",
            request.job_id,
            request.node_id,
            request.status,
            request.reason,
            self._ms("history_ttl"),
        )
        if code == errors.UnknownJob.code:
            raise errors.UnknownJob(job_id=request.job_id)
        if code == errors.NodeMismatch.code:
            raise errors.NodeMismatch(
                job_id=request.job_id, node_id=request.node_id, owner=values[0]
            )
        return CompleteTaskResponse(job_id=request.job_id, already_ended=code != "OK")

    def claim_job(self, job_id: str, node_id: str) -> str:
        """Ask whether to run a job whose message a node received: ``run``, ``full`` or ``drop``."""
        answer = self._call(
            "claim_job", job_id, node_id, self._ms("lease"), self._ms("history_ttl")
        )
        return str(answer[1])

    def release_job(self, job_id: str) -> None:
        """Give back the slot of a dispatch whose message could not be sent."""
        self._call("release_job", job_id, self._ms("history_ttl"))

    def set_language_pools(self, src_lang: str, tgt_lang: str, pools: Iterable[str]) -> None:
        """Map a language pair to pools without a node saying so; no pools takes it back."""
        offers = [PoolOffer(id=pool, langs=[(src_lang, tgt_lang)]) for pool in pools]
        if not offers:  # the languages are checked all the same
            PoolOffer(id="none", langs=[(src_lang, tgt_lang)])
        self._call("set_language_pools", f"{src_lang}:{tgt_lang}", *(offer.id for offer in offers))

    def _call(self, name: str, *args: str | int | float) -> list[Any]:
        return scripts.call(self.redis, self.keys, name, *args)

    def _ms(self, setting: str) -> int:
        return round(float(getattr(self.settings, setting)) * 1000)


def _lua_bool(value: bool) -> str:
    return "true" if value else "false"


def _pairs(pool: PoolOffer) -> list[str]:
    return [f"{src}:{tgt}" for src, tgt in pool.langs]


def _no_node(code: str, values: list[Any], request: DispatchRequest) -> errors.SchedulerError:
    """The error for a dispatch that found no node, in the words of its demand."""
    if code == errors.NoPoolForLangPair.code:
        where = (
            f"pool {request.pool!r} does not list it, and no other" if request.pool else "no pool"
        )
        return errors.NoPoolForLangPair(
            where=where, src_lang=request.src_lang, tgt_lang=request.tgt_lang
        )
    if code == errors.EmptyPool.code:
        return errors.EmptyPool(
            pool=values[0],
            with_capability=f"with {', '.join(request.capabilities)} "
            if request.capabilities
            else "",
            flags="".join(f" --capability {name}" for name in request.capabilities),
        )
    parts = [
        request.pool and f"pool {request.pool}",
        request.src_lang and f"{request.src_lang} to {request.tgt_lang}",
        request.capabilities and f"with {', '.join(request.capabilities)}",
    ]
    return errors.NoAvailableNode(demand=", ".join(part for part in parts if part))
