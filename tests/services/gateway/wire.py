"""A connection that can be cut or held: a relay between two ends, as a cable that a test pulls."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_READ_BYTES = 65_536


class Wire:
    """Relays connections to one address; ``relayed`` makes it."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._writers: list[asyncio.StreamWriter] = []
        self._flows = asyncio.Event()
        self._flows.set()
        self._whole = True
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relays one connection until either end is gone."""
        if not self._whole:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, far_writer]
        with suppress(OSError):
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    def reset(self) -> None:
        """Ends all connections as the kernel does for a process that was killed with data unread; takes no new ones."""
        self._whole = False
        for writer in self._writers:
            connection: socket.socket = writer.get_extra_info("socket")
            if connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        """Ends all connections in order; takes no new ones."""
        self._whole = False
        for writer in self._writers:
            writer.close()

    def mend(self) -> None:
        """Takes new connections again."""
        self._whole = True

    def hold(self) -> None:
        """Relays nothing any more, while both ends believe that the connection stands."""
        self._flows.clear()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def relayed(target: str) -> AsyncIterator[Wire]:
    """A wire to ``target``, host:port."""
    wire = Wire(target)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        wire.reset()
