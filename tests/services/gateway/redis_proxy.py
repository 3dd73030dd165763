"""A proxy before a real Redis: answers come late, or one of them never comes.

Knows the frames of Redis's protocol; nothing of what is asked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_AGGREGATES = {b"*": 1, b"~": 1, b">": 1, b"%": 2}
_STRINGS = (b"$", b"=", b"!")


class RedisProxy:
    """Where it listens, and its faults."""

    def __init__(self, server: str) -> None:
        self.server = server
        """Address of the real one."""
        self.url = ""
        self.commands = 0
        """Answered so far, on all connections."""
        self.dropped: int | None = None
        """Number of the command whose answer is lost: the server has executed it, and the connection ends."""
        self.delay_s: Callable[[], float] = lambda: 0.0
        """How late an answer is; answers on one connection may overlap on their way."""
        self.away = False
        """New connections end at once."""
        self._open: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Ends all connections."""
        for writer in self._open:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        if self.away:
            writer.close()
            return
        upstream, downstream = await asyncio.open_connection("127.0.0.1", _port(self.server))
        self._open.add(writer)
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        work = (self._forward(reader, downstream), self._answers(upstream, late), self._deliver(late, writer))
        tasks = [asyncio.create_task(one) for one in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(writer)
            writer.close()
            downstream.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            server.write(data)
            await server.drain()

    async def _answers(self, server: asyncio.StreamReader, late: "asyncio.Queue[tuple[float, bytes]]") -> None:
        """Takes answers apart, until one is lost."""
        loop = asyncio.get_running_loop()
        while answer := await _frame(server):
            number, self.commands = self.commands, self.commands + 1
            if number == self.dropped:
                return
            late.put_nowait((loop.time() + self.delay_s(), answer))

    async def _deliver(self, late: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, answer = await late.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(answer)
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The bytes of one whole answer; none at the end."""
    line = await reader.readline()
    kind = line[:1]
    if kind in _STRINGS and int(line[1:]) >= 0:
        return line + await reader.readexactly(int(line[1:]) + 2)
    inside = _AGGREGATES[kind] * max(0, int(line[1:])) if kind in _AGGREGATES else 0
    return line + b"".join([await _frame(reader) for _ in range(inside)])


@asynccontextmanager
async def redis_proxy(url: str) -> AsyncIterator[RedisProxy]:
    """A proxy on a free port before the Redis at ``url``."""
    proxy = RedisProxy(url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])
