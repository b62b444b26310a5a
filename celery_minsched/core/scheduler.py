"""The scheduler: one straight method a script. All state is in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import redis

from . import errors, lua_source, scripts, times
from .heartbeats import heartbeat_calls, lua_bool, read_heartbeat
from .job_fields import JobArguments, JobToDispatch, job_arguments, job_fields
from .keys import Keys
from .layout import note_layout
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
from .outcomes import outcome_of, outcomes_of, read_completion
from .paging import MOST_REVOKED, Args, page_at, pages, slices, to_first_refused
from .registration import registration
from .settings import Settings
from .texts import text


class MinimalSchedulerService:
    """Registers nodes, dispatches jobs to them and completes jobs, for any Python program.

    ``redis`` is a client of any kind of connection; its ``decode_responses`` does not matter.
    ``keys`` are those of a broker with a key prefix or priority steps of its own. Every method
    raises the :class:`~.errors.SchedulerError` of its script's answer, or redis-py's
    errors.
    """

    def __init__(
        self, redis: redis.Redis, settings: Settings | None = None, keys: Keys | None = None
    ) -> None:
        self.redis = redis
        self._own = self.settings = settings or Settings()
        self._fleet: str | None = None
        self.keys = keys or Keys(self.settings.key_prefix)

    @cached_property
    def _times(self) -> str:
        """What scripts go by until a node has registered. The first call looks for the fleet's."""
        self._follow(times.look_up(self.redis, self.keys))
        return times.to_text(self._own)

    def _follow(self, fleet: str | None) -> None:
        """Use the fleet's times, and log a warning if they differ from this process's settings."""
        if fleet != self._fleet:
            self._fleet = fleet
            self.settings = times.settings_of_fleet(self._own, fleet)
            times.warn_of_differences(self._own, self.settings)

    def follow_fleet(self) -> None:
        """Look for the fleet's times before the first call does."""
        self._times  # noqa: B018 - is looked up once

    def register_node(self, request: RegisterNodeRequest) -> RegisterNodeResponse:
        """Announce a node, or announce it anew after a change. If no node lives, the times of this
        process are the fleet's from now on. Else it uses the fleet's.

        Raises :class:`NodeIdInUse` while a live node of this id is another process, and
        :class:`WrongLayout` where Redis is of a version with another layout.
        """
        note_layout(self.redis, self.keys)
        self._follow(times.agree(self.redis, self.keys, self._own))
        code, *values = self._call("register_node", **registration(request))
        if code == errors.NodeIdInUse.code:
            raise errors.NodeIdInUse(node_id=request.node_id, holder=values[0], age_ms=values[1])
        return RegisterNodeResponse(node_id=request.node_id, current_jobs=values[0])

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse:
        """Tell that a node lives, how loaded it is, and which jobs it holds.

        Sends several calls of the script if the node holds many jobs, so that each is short. Raises
        :class:`UnknownNode` if Redis does not know the node: register it.
        """
        interval, suffixes = self.settings.heartbeat_interval, "\n".join(self.keys.suffixes)
        answers = [
            read_heartbeat(self._call("heartbeat", **given), request.node_id, interval)
            for given in heartbeat_calls(request, interval, suffixes)
        ]
        not_yours = [job_id for answer in answers for job_id in answer.not_yours]
        return answers[-1].model_copy(update={"not_yours": not_yours})

    def drain_node(self, node_id: str, draining: bool = True) -> int:
        """Give the node no more jobs, or jobs again; the number of slots still taken.

        Raises :class:`UnknownNode`.
        """
        code, *values = self._call("drain_node", node_id=node_id, draining=lua_bool(draining))
        if code == errors.UnknownNode.code:
            raise errors.UnknownNode(node_id=node_id)
        return int(values[0])

    def pause_pool(self, pool: str, paused: bool = True) -> None:
        """Give the pool's nodes no more jobs for it, so that they wait; or jobs again.

        Raises :class:`EmptyPool` for a pool in which no node is registered.
        """
        code, *values = self._call("pause_pool", pool=pool, paused=lua_bool(paused))
        if code == errors.EmptyPool.code:
            raise errors.EmptyPool(pool=values[0], with_capability="", flags="")

    def declare_dead(self, node_id: str) -> int:
        """Have a node rescued now that was silent for two heartbeats and more; the jobs it held.

        Raises :class:`UnknownNode`, or :class:`NodeIdInUse` where the node lives.
        """
        silence = round(2000 * self.settings.heartbeat_interval)
        code, *values = self._call("declare_dead", node_id=node_id, least_silence_ms=silence)
        if code == errors.UnknownNode.code:
            raise errors.UnknownNode(node_id=node_id)
        if code == errors.NodeIdInUse.code:
            raise errors.NodeIdInUse(node_id=node_id, holder=values[0], age_ms=values[1])
        return int(values[0])

    def dispatch_task(self, request: DispatchRequest) -> DispatchResponse:
        """Take a slot for a job on the best node, and say which. The caller sends the message.

        Raises :class:`NoPoolForLangPair`, :class:`EmptyPool` or :class:`NoAvailableNode`, also
        where the request says ``wait``: there is no message that could.
        """
        [place] = self.dispatch_tasks([(request, _NO_MESSAGE)])
        if isinstance(place, errors.SchedulerError):
            raise place
        return place

    def dispatch_tasks(
        self, jobs: Sequence[JobToDispatch]
    ) -> list[DispatchResponse | errors.SchedulerError]:
        """Dispatch jobs and send their messages, each in one step, a hundred in a call.

        A message is the JSON text before the place of its job's id, and that after it. What became
        of each job, to the first that is refused: those after it are not dispatched. If a call
        fails, the jobs of earlier calls are dispatched. Jobs with a task id and a token get the
        same answers if they are dispatched again.
        """
        dispatch = partial(self._call, "dispatch_task")
        return outcomes_of(to_first_refused(dispatch, self._arguments_of(jobs)), jobs)

    def begin_dispatch(
        self, jobs: Sequence[JobToDispatch]
    ) -> Callable[[], list[DispatchResponse | errors.SchedulerError]]:
        """Ask what :meth:`dispatch_tasks` asks; the function returned waits for the answer, and has
        to be called. Both raise redis-py's errors; :meth:`dispatch_tasks` then asks again.
        """
        calls, dispatch = self._arguments_of(jobs), partial(self._call, "dispatch_task")
        first = page_at(calls, 0)
        answer = scripts.begin(
            self.redis, self.keys, "dispatch_task", times=self._times, jobs=first
        )
        return lambda: outcomes_of(to_first_refused(dispatch, calls, answer()), jobs)

    def adopt_tasks(
        self, queue: str, jobs: Sequence[tuple[str | bytes, DispatchRequest, tuple[str, str]]]
    ) -> list[DispatchResponse | errors.SchedulerError | None]:
        """Take messages out of an ordinary queue's list and dispatch them, each in one step.

        Each as it lies there, and as :meth:`dispatch_tasks` takes it. ``None`` for one that lies
        there no more; the first that is refused is the last, and stays.
        """
        told = self._arguments_of([(request, message) for _, request, message in jobs])
        lying = [(raw, *args) for (raw, _, _), args in zip(jobs, told, strict=True)]
        answers = to_first_refused(partial(self._call, "adopt_task", queue_list=queue), lying)
        return [
            None if answer[0] == "GONE" else outcome_of(answer, job[1])
            for answer, job in zip(answers, jobs, strict=False)
        ]

    def return_messages(self, messages: Sequence[tuple[str | bytes, ...]]) -> list[str]:
        """Return messages to ordinary queues and forget their jobs, each in one step; what became
        of each. See the script, also for the fields of each message.
        """
        fields = ("source_list", "message", "queue_list", "ordinary_message", "job_id")
        return [str(answer[1]) for answer in self._call_many("return_message", fields, messages)]

    def _arguments_of(self, jobs: Sequence[JobToDispatch]) -> list[JobArguments]:
        return [job_arguments(self.keys, self.settings.max_waiting, *job) for job in jobs]

    def place_jobs(
        self, job_ids: Sequence[str], handed_back_by: str, requeued: bool = False
    ) -> list[str]:
        """Place jobs whose messages lie in their own lists: at a node, or in line.

        ``handed_back_by`` is the node that gives up their slots. Jobs go to the head of their
        lines; ``requeued`` ones, whose tasks have begun, to the end. What became of each:
        ``dispatched``, ``waiting``, ``delayed``, ``lost``, or ``unchanged``.
        """
        how = "requeued" if requeued else ""
        calls = [(job_id, handed_back_by, how) for job_id in job_ids]
        answers = self._call_many("place_job", ("job_id", "handed_back_by", "how"), calls)
        return [str(answer[1]) for answer in answers]

    def park_messages(
        self, messages: Sequence[tuple[str, str | bytes, str, str, str, str]]
    ) -> list[str]:
        """Move messages of jobs from nodes to the jobs' own lists, each in one step; see the script
        for what is told of each, and for what became of it.
        """
        fields = ("job_id", "message", "priority_suffix", "node_id", "delivery_tag", "source_list")
        return [str(answer[1]) for answer in self._call_many("park_message", fields, messages)]

    def complete_task(self, request: CompleteTaskRequest) -> CompleteTaskResponse:
        """Free a job's slot and record how the job ended. With ``next_claim``, the node takes its
        next job by this claim, and the answer has that job. A second call changes nothing.

        Raises :class:`UnknownJob`, or :class:`NodeMismatch` where the job is another node's.
        """
        answer = scripts.call_for_bytes(
            self.redis,
            self.keys,
            "complete_task",
            times=self._times,
            job_id=request.job_id,
            node_id=request.node_id,
            status=request.status,
            reason=request.reason,
            delivery_tag=request.delivery_tag,
            claim=request.claim,
            next_claim=request.next_claim,
        )
        return read_completion(request, answer)

    def claim_job(
        self, job_id: str, node_id: str, tag: str = "", claim: str = "", taken: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """Ask whether to run a job whose message a node received, by a claim of that name.

        If the message lies in the node's list ``node_taken``, ``taken`` adds it to the
        unacknowledged messages in the same step, whatever the verdict.

        The verdict (``run``, ``discard``, ``drop``, ``hand_back``, ``full`` or ``not_taken``; see
        the script), and of a job that runs its ``pool``, ``chosen_by`` and ``waited_ms``, for its
        message's header, and the node's ``term``.
        """
        given = {"delivery_tag": tag, "claim": claim, "taken": lua_bool(taken)}
        return self.read_claim(self._call("claim_job", job_id=job_id, node_id=node_id, **given))

    def claim_in(
        self,
        pipe: Any,
        job_id: str,
        node_id: str,
        delivery_tag: str,
        claim: str,
        load: bool,
        taken: bool = False,
    ) -> None:
        """Put a ``claim_job`` in a pipeline of kombu's, as its last; :meth:`read_claim` reads the
        answer. That is redis-py's ``NoScriptError`` where the server has lost the script and
        ``load`` does not send it once more. ``taken`` is that of :meth:`claim_job`.
        """
        if load:
            pipe.script_load(lua_source.source("claim_job"))
        prefixes = (self.keys.own_prefix, self.keys.queue_prefix)  # kombu prefixes the first key
        given = {"delivery_tag": delivery_tag, "claim": claim, "taken": lua_bool(taken)}
        given |= {"times": self._times, "job_id": job_id, "node_id": node_id}
        args = scripts.in_order("claim_job", **given)
        pipe.evalsha(lua_source.sha("claim_job"), 2, *prefixes, *args)

    @staticmethod
    def read_claim(answer: Any) -> tuple[str, dict[str, Any]]:
        """What the script answered, as :meth:`claim_job` tells it."""
        _, verdict, *place = text(answer)
        return verdict, dict(zip(("pool", "chosen_by", "waited_ms", "term"), place, strict=False))

    def acknowledge_job(self, node_id: str, delivery_tag: str, term: int) -> str:
        """Note that a node acknowledges a message before its job begins: ``acknowledged``,
        ``refused`` or ``gone``; see the script.
        """
        given = {"node_id": node_id, "delivery_tag": delivery_tag, "term": term}
        return str(self._call("acknowledge_job", **given)[1])

    def release_job(self, job_id: str) -> None:
        """Give back the slot of a dispatch whose message could not be sent."""
        self._call("release_job", job_id=job_id)

    def revoke_tasks(self, task_ids: Sequence[str], node_id: str) -> int:
        """Take revoked tasks out of their lines and hand their messages to this node to discard, or
        to another that is heard later. How many waited.
        """
        return sum(
            int(self._call("revoke_tasks", node_id=node_id, task_ids=some)[1])
            for some in slices(task_ids, MOST_REVOKED)
        )

    def claim_rescue(self) -> tuple[str, str]:
        """A node that is gone, whose rescue is this caller's for ten seconds; ("", "") for none.

        Its messages should be moved to their jobs' own lists, and then ``rescue_node`` called. With
        it comes ``dead``, or ``left`` for a node that has said that it leaves.
        """
        _, node_id, how = self._call("claim_rescue")
        return str(node_id), str(how)

    def claim_lost_job(self) -> str:
        """A lost job that this caller should report, "" for none. No other gets it for a while."""
        return str(self._call("claim_lost_job")[1])

    def rescue_node(self, node_id: str, job_ids: Iterable[str] = ()) -> tuple[int, int, int]:
        """Place jobs of a node that is gone, whose messages were moved to their own lists: 100 at
        most. Without jobs: settle some of the others, all of whose messages were moved.

        How many jobs are placed, how many are lost, and how many the node still has: those are for
        a later call.
        """
        _, placed, lost, left = self._call("rescue_node", node_id=node_id, job_ids=job_ids)
        return int(placed), int(lost), int(left)

    def repair_node(self, node_id: str, offers: str = "", speaks: str = "") -> None:
        """Put a node right by its record; ``offers`` and ``speaks`` are where else it was seen."""
        self._call(
            "repair_node",
            node_id=node_id,
            priority_suffixes="\n".join(self.keys.suffixes),
            advertised_indexes=offers,
            language_pairs=speaks,
        )

    def repair_line(self, line: str, seen_in: str = "") -> None:
        """Put a line right by the jobs in it; ``seen_in`` are indexes in which it was seen."""
        self._call("repair_line", line=line, seen_in=seen_in)

    def recount_waiting(self, where: str, lines: Iterable[str]) -> None:
        """Count anew the jobs that wait for a demand, by its lines."""
        self._call("recount_waiting", pool_selector=where, lines=lines)

    def repair_job(
        self,
        told: DispatchRequest | None,
        job_id: str,
        seen_at: str = "",
        line: str = "",
        ticket: str = "",
        task_id: str = "",
    ) -> None:
        """Put a job right by its record, of which the message's ``told`` makes good what is lost.
        The node, or the line and the ticket there, are where else it was seen. The key of
        ``task_id`` names the job.
        """
        fields = ""
        if told:
            payload = {"payload_json": told.payload_json}
            fields = json.dumps(job_fields(self.keys, told) | payload)
        self._call(
            "repair_job",
            job_id=job_id,
            seen_at=seen_at,
            line=line,
            queue_entry=ticket,
            message_fields=fields,
            task_id=task_id,
        )

    def set_language_pools(self, src_lang: str, tgt_lang: str, pools: Iterable[str]) -> None:
        """Map a language pair to pools without a node saying so; no pools takes it back."""
        offers = [PoolOffer(id=pool, langs=[(src_lang, tgt_lang)]) for pool in pools]
        if not offers:  # the languages are checked all the same
            PoolOffer(id="none", langs=[(src_lang, tgt_lang)])
        pair = f"{src_lang}:{tgt_lang}"
        self._call("set_language_pools", pair=pair, pools=[offer.id for offer in offers])

    def carry_language(self, pair: str, pools: Iterable[str]) -> None:
        """Take over a language pair of the original specification's layout."""
        self._call("carry_language", pair=pair, pools=pools)

    def carry_jobs(self, jobs: Sequence[tuple[str, int, str, str, int]]) -> list[str]:
        """Take over jobs of the original specification's layout; see the script for the fields of
        each, and for what became of it.
        """
        fields = ("job_id", "created_ts", "payload_json", "pool_selector", "held_until")
        return [str(answer[1]) for answer in self._call_many("carry_job", fields, jobs)]

    def _call(self, name: str, /, **given: Any) -> list[Any]:
        return scripts.call(self.redis, self.keys, name, times=self._times, **given)

    def _call_many(self, name: str, fields: Sequence[str], rows: Sequence[Args]) -> list[list[Any]]:
        """The answers to a call of a script for each row, a page of them in one round trip."""
        return [answer for page in pages(rows) for answer in self._call_page(name, fields, page)]

    def _call_page(self, name: str, fields: Sequence[str], page: Sequence[Args]) -> list[list[Any]]:
        rows = [(self._times, *row) for row in page]
        return scripts.call_many(self.redis, self.keys, name, ("times", *fields), rows)


#: Of a job whose message the caller sends.
_NO_MESSAGE = ("", "")
