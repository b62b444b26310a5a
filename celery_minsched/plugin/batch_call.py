"""One call that dispatches a batch of jobs, while the caller makes the next batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from ..core.scheduler import ReadOutcomes
from .dispatch_job import Job, failing, record_outcomes
from .runtime import Runtime


class BatchCall:
    """A call for a batch of jobs. The constructor makes its text, because that takes some time.

    ``dispatch`` dispatches the jobs again, with the retries of a publish, if the call fails on the
    way. Redis gives the same answer to the same job.
    """

    def __init__(self, runtime: Runtime, jobs: Sequence[Job], dispatch: Callable[[], None]) -> None:
        self._jobs, self._dispatch = jobs, dispatch
        self._send: Callable[[], ReadOutcomes] | None = None
        self._read: ReadOutcomes | None = None
        with suppress(RedisError, OperationalError):
            self._send = runtime.scheduler.prepare_dispatch([job.to_dispatch for job in jobs])

    def begin(self) -> None:
        """Send the call. Then :meth:`settle` must be called."""
        if self._send:
            with suppress(RedisError, OperationalError):
                self._read = self._send()

    def settle(self) -> None:
        """Wait for the answer and record it. Raises the error of the first job that is refused."""
        outcomes = None
        with failing(self._jobs):
            if self._read:
                with suppress(RedisError):
                    outcomes = self._read()
            if outcomes is None:
                self._dispatch()
            else:
                record_outcomes(self._jobs, outcomes)
