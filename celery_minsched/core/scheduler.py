"""The scheduler: one method for each script. All state is in Redis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from . import errors, lua_source, scripts, times
from .field_types import check_lang
from .heartbeats import heartbeat_calls, lua_bool, read_heartbeat
from .job_fields import JobArguments, JobToDispatch, MessageParts, job_arguments, job_fields
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
from .outcomes import completion_of, outcome_of, outcomes_of
from .paging import MOST_REVOKED, page_at, slices, to_first_refused
from .registration import registration
from .script_caller import ScriptCaller
from .texts import text

#: Waits for the answer of a dispatch, and returns the outcomes of its jobs.
ReadOutcomes = Callable[[], list[DispatchResponse | errors.SchedulerError]]


class MinimalSchedulerService(ScriptCaller):
    """Registers nodes, dispatches jobs to them and completes jobs, for any Python program.

    ``redis`` is a client of any kind of connection. It may decode responses or not. ``keys`` are
    for a broker that has a key prefix or its own priority steps. Each method raises the
    :class:`~.errors.SchedulerError` of its script's answer, or redis-py's errors.
    """

    def register_node(self, request: RegisterNodeRequest) -> RegisterNodeResponse:
        """Register a node, or register it again after a change.

        If no node lives, the times of this process become the fleet's. Otherwise this process uses
        the fleet's times. Raises :class:`NodeIdInUse` while another process is a live node with
        this id, and :class:`WrongLayout` if a version with another layout wrote the state in Redis.
        """
        note_layout(self.redis, self.keys)
        self._follow(times.agree(self.redis, self.keys, self._own))
        code, *values = self._call("register_node", **registration(request))
        if code == errors.NodeIdInUse.code:
            raise errors.NodeIdInUse(node_id=request.node_id, holder=values[0], age_ms=values[1])
        return RegisterNodeResponse(node_id=request.node_id, current_jobs=values[0])

    def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse:
        """Report that a node is alive, its load, and the jobs that it holds.

        If the node holds many jobs, several short calls of the script report them. Raises
        :class:`UnknownNode` if Redis does not know the node. Then register it.
        """
        interval, suffixes = self.settings.heartbeat_interval, "\n".join(self.keys.suffixes)
        answers = [
            read_heartbeat(self._call("heartbeat", **arguments), request.node_id, interval)
            for arguments in heartbeat_calls(request, interval, suffixes)
        ]
        not_yours = [job_id for answer in answers for job_id in answer.not_yours]
        return answers[-1].model_copy(update={"not_yours": not_yours})

    def drain_node(self, node_id: str, draining: bool = True) -> int:
        """Stop or resume giving jobs to a node. Returns the number of its taken slots.

        Raises :class:`UnknownNode`.
        """
        code, *values = self._call("drain_node", node_id=node_id, draining=lua_bool(draining))
        if code == errors.UnknownNode.code:
            raise errors.UnknownNode(node_id=node_id)
        return int(values[0])

    def pause_pool(self, pool: str, paused: bool = True) -> None:
        """Stop or resume giving jobs of a pool to its nodes. Meanwhile the jobs wait.

        Raises :class:`EmptyPool` if no node is registered in the pool.
        """
        code, *values = self._call("pause_pool", pool=pool, paused=lua_bool(paused))
        if code == errors.EmptyPool.code:
            raise errors.EmptyPool(pool=values[0], with_capability="", flags="")

    def declare_dead(self, node_id: str) -> int:
        """Declare a silent node dead before its TTL ends. Returns the number of its jobs.

        The node must have been silent for two heartbeats. Raises :class:`UnknownNode`, or
        :class:`NodeIdInUse` if the node is alive.
        """
        silence = round(2000 * self.settings.heartbeat_interval)
        code, *values = self._call("declare_dead", node_id=node_id, least_silence_ms=silence)
        if code == errors.UnknownNode.code:
            raise errors.UnknownNode(node_id=node_id)
        if code == errors.NodeIdInUse.code:
            raise errors.NodeIdInUse(node_id=node_id, holder=values[0], age_ms=values[1])
        return int(values[0])

    def dispatch_task(self, request: DispatchRequest) -> DispatchResponse:
        """Take a slot for a job on the best node. The caller sends the message to that node.

        Raises :class:`NoPoolForLangPair`, :class:`EmptyPool` or :class:`NoAvailableNode`. It raises
        also if ``when_full`` is ``wait``: without a message, the job cannot wait.
        """
        [place] = self.dispatch_tasks([(request, _NO_MESSAGE)])
        if isinstance(place, errors.SchedulerError):
            raise place
        return place

    def dispatch_tasks(
        self, jobs: Sequence[JobToDispatch]
    ) -> list[DispatchResponse | errors.SchedulerError]:
        """Dispatch jobs and send their messages, each in one step, a hundred in a call.

        A message is two JSON texts: before the place of its job's id, and after it. Returns the
        outcome of each job, up to the first refused job. The jobs after it are not dispatched. If
        a call fails, the jobs of earlier calls are dispatched. Jobs with a task id and a token get
        the same answers if they are dispatched again.
        """
        dispatch = partial(self._call, "dispatch_task")
        return outcomes_of(to_first_refused(dispatch, self._arguments_of(jobs)), jobs)

    def prepare_dispatch(self, jobs: Sequence[JobToDispatch]) -> Callable[[], ReadOutcomes]:
        """Make the first call of :meth:`dispatch_tasks`, and send nothing.

        Returns a function that sends the call and does not wait for the answer. Call the function
        that it returns: that waits for the answer, sends the other calls, and returns the outcomes.
        All of them raise redis-py's errors. Then call :meth:`dispatch_tasks`.
        """
        calls, dispatch = self._arguments_of(jobs), partial(self._call, "dispatch_task")
        first = page_at(calls, 0)
        send = scripts.prepare(
            self.redis, self.keys, "dispatch_task", times=self._times, jobs=first
        )

        def begin() -> ReadOutcomes:
            answer = send()
            return lambda: outcomes_of(to_first_refused(dispatch, calls, answer()), jobs)

        return begin

    def adopt_tasks(
        self, queue: str, jobs: Sequence[tuple[str | bytes, DispatchRequest, MessageParts]]
    ) -> list[DispatchResponse | errors.SchedulerError | None]:
        """Move messages from an ordinary queue's list to dispatch, each in one step.

        A job is its message as it is in the list, its request, and its message as
        :meth:`dispatch_tasks` takes it. The outcome is ``None`` if the message is not in the list.
        The first job that is refused is the last one, and its message stays in the list.
        """
        arguments = self._arguments_of([(request, message) for _, request, message in jobs])
        rows = [(raw, *args) for (raw, _, _), args in zip(jobs, arguments, strict=True)]
        answers = to_first_refused(partial(self._call, "adopt_task", queue_list=queue), rows)
        return [
            None if answer[0] == "GONE" else outcome_of(answer, job[1])
            for answer, job in zip(answers, jobs, strict=False)
        ]

    def return_messages(self, messages: Sequence[tuple[str | bytes, ...]]) -> list[str]:
        """Return messages to ordinary queues and delete their jobs, each in one step.

        Returns the outcome of each message. See the script for the outcomes and the fields.
        """
        fields = ("source_list", "message", "queue_list", "ordinary_message", "job_id")
        return [str(answer[1]) for answer in self._call_many("return_message", fields, messages)]

    def _arguments_of(self, jobs: Sequence[JobToDispatch]) -> list[JobArguments]:
        return [job_arguments(self.keys, self.settings.max_waiting, *job) for job in jobs]

    def place_jobs(
        self, job_ids: Sequence[str], handed_back_by: str, requeued: bool = False
    ) -> list[str]:
        """Place jobs whose messages are in their own lists: at a node, or in line.

        ``handed_back_by`` is the node that gives up their slots. Jobs go to the head of their
        lines. ``requeued`` jobs, whose tasks have begun, go to the end. Returns the outcome of each
        job: ``dispatched``, ``waiting``, ``delayed``, ``lost`` or ``unchanged``.
        """
        how = "requeued" if requeued else ""
        calls = [(job_id, handed_back_by, how) for job_id in job_ids]
        answers = self._call_many("place_job", ("job_id", "handed_back_by", "how"), calls)
        return [str(answer[1]) for answer in answers]

    def park_messages(
        self, messages: Sequence[tuple[str, str | bytes, str, str, str, str]]
    ) -> list[str]:
        """Move messages of jobs from nodes to the jobs' own lists, each in one step.

        Returns the outcome of each message. See the script for the outcomes and the fields.
        """
        fields = ("job_id", "message", "priority_suffix", "node_id", "delivery_tag", "source_list")
        return [str(answer[1]) for answer in self._call_many("park_message", fields, messages)]

    def complete_task(self, request: CompleteTaskRequest) -> CompleteTaskResponse:
        """Free a job's slot and record how the job ended. A second call changes nothing.

        With ``next_claim``, the node takes its next job by this claim, and the answer has that job.
        Raises :class:`UnknownJob`, or :class:`NodeMismatch` if the job belongs to another node.
        """
        [outcome] = self.complete_tasks([request])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def complete_tasks(
        self, requests: Sequence[CompleteTaskRequest]
    ) -> list[CompleteTaskResponse | Exception]:
        """As :meth:`complete_task` for each request, in one round trip. Errors are returned."""
        rows = [{"times": self._times, **dict(request)} for request in requests]
        answers = scripts.call_each_for_bytes(self.redis, self.keys, "complete_task", rows)
        return [completion_of(*pair) for pair in zip(requests, answers, strict=True)]

    def claim_job(
        self, job_id: str, node_id: str, tag: str = "", claim: str = "", taken: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """Claim a job whose message a node received. The claim has the name ``claim``.

        If the message is in the node's list ``node_taken``, ``taken`` adds it to the
        unacknowledged messages in the same step, with any verdict.

        Returns the verdict: ``run``, ``discard``, ``drop``, ``hand_back``, ``full`` or
        ``not_taken`` (see the script). With ``run`` it also returns the job's ``pool``,
        ``chosen_by`` and ``waited_ms``, for its message's header, and the node's ``term``.
        """
        arguments = {"delivery_tag": tag, "claim": claim, "taken": lua_bool(taken)}
        return self.read_claim(self._call("claim_job", job_id=job_id, node_id=node_id, **arguments))

    def claim_in(
        self,
        pipe: Any,
        job_id: str,
        node_id: str,
        delivery_tag: str,
        claim: str,
        load: bool,
        taken: bool = False,
    ) -> Any:
        """Add a :meth:`claim_job` to a pipeline of kombu, as its last command.

        With a client of kombu instead of a pipeline, make the call and return the answer.
        :meth:`read_claim` reads the answer. If the server has lost the script, the answer is
        redis-py's ``NoScriptError``, unless ``load`` sends the script too.
        """
        if load:
            pipe.script_load(lua_source.source("claim_job"))
        prefixes = (self.keys.own_prefix, self.keys.queue_prefix)  # kombu prefixes the first key
        arguments = {"delivery_tag": delivery_tag, "claim": claim, "taken": lua_bool(taken)}
        arguments |= {"times": self._times, "job_id": job_id, "node_id": node_id}
        args = scripts.in_order("claim_job", **arguments)
        return pipe.evalsha(lua_source.sha("claim_job"), 2, *prefixes, *args)

    @staticmethod
    def read_claim(answer: Any) -> tuple[str, dict[str, Any]]:
        """The script's answer as :meth:`claim_job` returns it."""
        _, verdict, *place = text(answer)
        return verdict, dict(zip(("pool", "chosen_by", "waited_ms", "term"), place, strict=False))

    def acknowledge_job(self, node_id: str, delivery_tag: str, term: int) -> str:
        """Record that a node acknowledges a message before its job begins.

        Returns ``acknowledged``, ``refused`` or ``gone``. See the script.
        """
        arguments = {"node_id": node_id, "delivery_tag": delivery_tag, "term": term}
        return str(self._call("acknowledge_job", **arguments)[1])

    def release_job(self, job_id: str) -> None:
        """Release the slot of a job whose message could not be sent."""
        self._call("release_job", job_id=job_id)

    def revoke_tasks(self, task_ids: Sequence[str], node_id: str) -> int:
        """Remove revoked tasks from their lines. Returns the number of tasks that waited.

        The node discards their messages, or a node with a later heartbeat does.
        """
        return sum(
            int(self._call("revoke_tasks", node_id=node_id, task_ids=some)[1])
            for some in slices(task_ids, MOST_REVOKED)
        )

    def claim_rescue(self) -> tuple[str, str]:
        """Claim the rescue of a node that is gone, for ten seconds.

        Returns its id, and ``dead`` or ``left``. A node that has stopped in order has ``left``.
        Returns ("", "") if no node is gone. The caller moves the node's messages to the jobs' own
        lists, and then calls :meth:`rescue_node`.
        """
        _, node_id, reason = self._call("claim_rescue")
        return str(node_id), str(reason)

    def claim_lost_job(self) -> str:
        """Claim a lost job, to notify its caller. "" for none. The claim ends after a while."""
        return str(self._call("claim_lost_job")[1])

    def rescue_node(self, node_id: str, job_ids: Iterable[str] = ()) -> tuple[int, int, int]:
        """Place jobs of a node that is gone, at most 100. Their messages are in their own lists.

        Without jobs, it settles some jobs that have no message. Returns how many jobs are placed,
        how many are lost, and how many the node still has. These need further calls.
        """
        _, placed, lost, left = self._call("rescue_node", node_id=node_id, job_ids=job_ids)
        return int(placed), int(lost), int(left)

    def repair_node(
        self, node_id: str, advertised_indexes: str = "", language_pairs: str = ""
    ) -> None:
        """Repair a node by its record.

        ``advertised_indexes`` and ``language_pairs`` are the indexes and pairs in which it was
        seen.
        """
        self._call(
            "repair_node",
            node_id=node_id,
            priority_suffixes="\n".join(self.keys.suffixes),
            advertised_indexes=advertised_indexes,
            language_pairs=language_pairs,
        )

    def repair_line(self, line: str, seen_in: str = "") -> None:
        """Repair a line by the jobs in it. ``seen_in`` are the indexes in which it was seen."""
        self._call("repair_line", line=line, seen_in=seen_in)

    def recount_waiting(self, pool_selector: str, lines: Iterable[str]) -> None:
        """Count the jobs in the lines of a pool selector again."""
        self._call("recount_waiting", pool_selector=pool_selector, lines=lines)

    def repair_job(
        self,
        request: DispatchRequest | None,
        job_id: str,
        seen_at: str = "",
        line: str = "",
        queue_entry: str = "",
        task_id: str = "",
    ) -> None:
        """Repair a job by its record.

        ``request`` comes from the job's message and replaces lost fields of the record. ``seen_at``
        is a node, and ``line`` and ``queue_entry`` are a place in line, where the job was seen. The
        key of ``task_id`` names the job.
        """
        fields = ""
        if request:
            payload = {"payload_json": request.payload_json}
            fields = json.dumps(job_fields(self.keys, request) | payload)
        self._call(
            "repair_job",
            job_id=job_id,
            seen_at=seen_at,
            line=line,
            queue_entry=queue_entry,
            message_fields=fields,
            task_id=task_id,
        )

    def set_language_pools(self, src_lang: str, tgt_lang: str, pools: Iterable[str]) -> None:
        """Map a language pair to pools, in addition to the pairs that nodes advertise.

        No pools removes the mapping. Raises ``ValueError`` for a wrong name.
        """
        pair = check_lang(src_lang), check_lang(tgt_lang)
        offers = [PoolOffer(id=pool, langs=[pair]) for pool in pools]
        self._call("set_language_pools", pair=":".join(pair), pools=[offer.id for offer in offers])

    def carry_language(self, pair: str, pools: Iterable[str]) -> None:
        """Carry over a language pair from the original specification's layout."""
        self._call("carry_language", pair=pair, pools=pools)

    def carry_jobs(self, jobs: Sequence[tuple[str, int, str, str, int]]) -> list[str]:
        """Carry over jobs from the original specification's layout.

        Returns the outcome of each job. See the script for the outcomes and the fields.
        """
        fields = ("job_id", "created_ts", "payload_json", "pool_selector", "held_until")
        return [str(answer[1]) for answer in self._call_many("carry_job", fields, jobs)]


#: The message of a job whose caller sends it.
_NO_MESSAGE: Final = ("", "")
