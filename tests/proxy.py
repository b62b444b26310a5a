"""A TCP proxy: a network that can hold its breath, be slow, or break."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any


class Proxy:
    """Forwards to a port of this machine. All methods may be called from any thread."""

    def __init__(self, target: int) -> None:
        #: Seconds that each direction takes; a round trip takes twice as long.
        self.delay = 0.0
        #: Where new connections lead.
        self.target = target
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._flows = asyncio.Event()
        self._call(self._flows.set)
        server = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(server, self._loop).result(5)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def hold(self) -> None:
        """Let nothing through, and lose nothing: a partition, as a connection sees it."""
        self._call(self._flows.clear)

    def release(self) -> None:
        self._call(self._flows.set)

    def cut(self) -> None:
        """Break all connections, and each new one."""

        def cut() -> None:
            self._is_cut = True
            for writer in self._writers:
                writer.transport.abort()

        self._call(cut)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._call(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        flows = asyncio.all_tasks() - {asyncio.current_task()}
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        await asyncio.sleep(0)  # the aborted connections close

    def _call(self, what: Callable[[], Any]) -> None:
        self._loop.call_soon_threadsafe(what)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._is_cut:
                return
            to_server = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(to_server[1])
            await asyncio.gather(self._pump(reader, to_server[1]), self._pump(to_server[0], writer))
        except OSError:  # the server is away
            return
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                self._loop.call_later(self.delay, self._write, writer, data)
        self._loop.call_later(self.delay, writer.close)
        self._writers.discard(writer)

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)
