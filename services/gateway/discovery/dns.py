"""Pipelines by the addresses of one host name, such as that of a headless Service.

Knows DNS; a name says neither who is ready nor on which port, so ports are given and links find out the rest.
"""

import asyncio
import random
import socket
from dataclasses import dataclass
from typing import Self

import structlog

from live_avatar.services.gateway.discovery.source import Address, Found, join_host

_NOBODY = (socket.EAI_NONAME, socket.EAI_NODATA)
"""The name has no address, as that of a headless Service without a ready pod."""


@dataclass(frozen=True)
class DnsName:
    """A host name and the ports of the pipelines behind it."""

    host: str
    head_port: int
    decoder_port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``HOST:HEAD_PORT/DECODER_PORT``."""
        host, _, ports = text.rpartition(":")
        head, _, decoder = ports.partition("/")
        return cls(host, int(head), int(decoder))


class DnsDiscovery:
    """Asks for the addresses of a name again and again.

    Args:
        name: what to ask for.
        poll_s: time between two questions; each is drawn between three quarters of it and all of it, so that
            gateways which start together do not ask together.
    """

    def __init__(self, name: DnsName, poll_s: float) -> None:
        self._name = name
        self._poll_s = poll_s
        self._log = structlog.get_logger(__name__).bind(host=name.host)

    async def run(self, found: Found) -> None:
        """See ``Discovery``."""
        known: frozenset[Address] | None = None
        while True:
            try:
                addresses = await self._resolve()
            except OSError as error:
                self._log.warning("pipelines could not be looked up", reason=str(error))
            else:
                if addresses != known:
                    known = addresses
                    found(addresses)
            await asyncio.sleep(self._poll_s * random.uniform(0.75, 1.0))

    async def _resolve(self) -> frozenset[Address]:
        """Every address of the name; raises OSError where nobody can say."""
        name, loop = self._name, asyncio.get_running_loop()
        try:
            answers = await loop.getaddrinfo(name.host, name.head_port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in _NOBODY:
                return frozenset()
            raise
        hosts = {str(address[0]) for _, _, _, _, address in answers}
        return frozenset(Address(join_host(host, name.head_port), join_host(host, name.decoder_port)) for host in hosts)
