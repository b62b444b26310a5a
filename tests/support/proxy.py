"""A TCP proxy. It can hold, slow, cut or silently lose its connections."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any


class Flow:
    """One connection through the proxy."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.passes = asyncio.Event()
        self.passes.set()
        #: Bytes of both directions and the end of the connection are lost, as in a firewall.
        self.is_silent = False

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    def silence(self) -> None:
        self.is_silent = True


class Proxy:
    """Forwards to a port of this machine. All methods may be called from any thread."""

    def __init__(self, target: int) -> None:
        #: Seconds of each direction. A round trip takes twice as long.
        self.delay = 0.0
        #: The port to which new connections lead.
        self.target = target
        #: Bytes that the clients have sent.
        self.sent = 0
        self._is_cut = False
        self._flows: list[Flow] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._passes = asyncio.Event()
        self._answers_pass = asyncio.Event()
        self._call(self._passes.set)
        self._call(self._answers_pass.set)
        server = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(server, self._loop).result(60)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def hold(self) -> None:
        """Forward nothing and lose nothing, as in a network partition."""
        self._call(self._passes.clear)

    def hold_answers(self) -> None:
        """Let requests through, and no answers."""
        self._call(self._answers_pass.clear)

    def release(self) -> None:
        """Forward all held bytes, and continue."""

        def release() -> None:
            self._passes.set()
            self._answers_pass.set()
            for flow in self._flows:
                flow.passes.set()

        self._call(release)

    def cut(self) -> None:
        """Break all connections and each new connection."""

        def cut() -> None:
            self._is_cut = True
            for flow in self._flows:
                flow.cut()

        self._call(cut)

    def mend(self) -> None:
        self._is_cut = False

    def hold_some(self, draw: random.Random, most: int) -> None:
        """Hold at most ``most`` of the open connections until ``release``."""
        self._call_for(draw, most, lambda flow: flow.passes.clear())

    def cut_some(self, draw: random.Random, most: int) -> None:
        """Break at most ``most`` of the open connections."""
        self._call_for(draw, most, Flow.cut)

    def silence_some(self, draw: random.Random, most: int) -> None:
        """Drop all bytes of at most ``most`` connections, and leave these connections open."""
        self._call_for(draw, most, Flow.silence)

    def close(self) -> None:
        self.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        flows = asyncio.all_tasks() - {asyncio.current_task()}
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted connections close

    def _call_for(self, draw: random.Random, most: int, function: Callable[[Flow], None]) -> None:
        def call() -> None:
            for flow in draw.sample(self._flows, min(most, len(self._flows))):
                function(flow)

        self._call(call)

    def _call(self, function: Callable[[], Any]) -> None:
        """Call the function in the event loop. Returns after the call."""

        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(60)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flow = Flow(writer)
        self._flows.append(flow)
        try:
            if self._is_cut:
                return
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            flow.writers.append(to_server)
            await asyncio.gather(
                self._pump(flow, reader, to_server),
                self._pump(flow, from_server, writer, is_answer=True),
            )
        except (OSError, asyncio.CancelledError):  # the server is away, or the proxy ends
            return
        finally:
            flow.cut()
            self._flows.remove(flow)

    async def _pump(
        self,
        flow: Flow,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_answer: bool = False,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_answer:
                    await self._answers_pass.wait()
                else:
                    self.sent += len(data)
                await self._passes.wait()
                await flow.passes.wait()
                if not flow.is_silent:
                    self._loop.call_later(self.delay, self._write, writer, data)
        if not flow.is_silent:
            self._loop.call_later(self.delay, writer.close)

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)
