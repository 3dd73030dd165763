"""Where the Redis is that takes writes: always at one address, or the one that Sentinels or nodes of a Cluster name.

Each new connection asks anew, and one whose server turns out to be no master any more ends: after a failover the next
attempt finds the new master.  Knows Redis; nothing of what is stored.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
)

from live_avatar.services.gateway.store.keys import TAG, TaggingEncoder

SENTINEL, CLUSTER = "sentinel", "cluster"
_PORTS = {SENTINEL: 26_379, CLUSTER: 6_379}
_ANSWER_S = 1.0
"""Of one Sentinel or node that is asked where the master is."""
_NODES_KEPT = 64
_ONCE = Retry(NoBackoff(), 0)
_ELSEWHERE = (ReadOnlyError, MovedError, AskError, ClusterDownError, MasterDownError)
"""Answers of a server that does not, or not any more, serve our keys."""
Address = tuple[str, int]
Find = Callable[[], Awaitable[Address]]


@dataclass(frozen=True, kw_only=True)
class StoreAddress:
    """Where Redis is and what is needed to get in."""

    url: str
    """``redis://``, ``rediss://`` or ``unix://`` for one server; ``redis+sentinel://[USER:PASSWORD@]HOST:PORT,.../NAME/DB``
    for the master called NAME of these Sentinels; ``redis+cluster://[USER:PASSWORD@]HOST:PORT,...`` for a Cluster of
    which some nodes are named; both with ``rediss+`` for TLS.  User and password are those of the servers of data."""
    ca: Path | None = None
    """PEM file with the authorities of servers and Sentinels; None: those of this machine."""
    certificate: Path | None = None
    key: Path | None = None
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)

    def tls(self) -> dict[str, Any]:
        """Arguments of a connection with TLS."""
        files = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return {name: str(file) for name, file in files.items() if file is not None}

    @property
    def way(self) -> str:
        """``sentinel``, ``cluster``, or empty: there is one server."""
        return urlsplit(self.url).scheme.partition("+")[2]


def connection_arguments(address: StoreAddress) -> dict[str, Any]:
    """Arguments of a pool whose connections find the master of Sentinels or of a Cluster by themselves.

    Raises:
        ValueError: the URL names no server, or no master of Sentinels.
    """
    parts = urlsplit(address.url)
    servers, secure = hosts(address.url), parts.scheme.startswith("rediss")
    shared = {"username": _text(parts.username), "password": _text(parts.password)}
    tls = address.tls() if secure else {}
    made: dict[str, Any] = {"connection_class": SecureMasterConnection if secure else MasterConnection, **shared, **tls}
    if address.way == CLUSTER:
        slot = key_slot(TAG.encode())
        return made | {
            "find": ClusterNodes(servers, slot, shared | _asking(secure, tls)).find,
            "encoder_class": TaggingEncoder,
        }
    name, database = _service(parts)
    access = {"username": address.sentinel_username or None, "password": address.sentinel_password or None}
    return made | {"find": Sentinels(servers, name, access | _asking(secure, tls)).find, "db": database}


def hosts(url: str) -> list[Address]:
    """Hosts and ports in a URL that may name several; raises ValueError where it names none."""
    parts = urlsplit(url)
    default = _PORTS.get(parts.scheme.partition("+")[2], 6_379)
    found = []
    for one in parts.netloc.rpartition("@")[2].split(","):
        host, _, port = one.rpartition(":") if one.rpartition(":")[2].isdigit() else (one, "", "")
        if not host:
            raise ValueError("store.url names no host")
        found.append((host.strip("[]"), int(port or default)))
    return found


def _service(parts: SplitResult) -> tuple[str, int]:
    """Name of the master and number of the database."""
    name, _, database = parts.path.strip("/").partition("/")
    if not name or not (database or "0").isdigit():
        raise ValueError("store.url of Sentinels ends with /NAME of the master, or /NAME/DATABASE")
    return unquote(name), int(database or 0)


def _text(quoted: str | None) -> str | None:
    return unquote(quoted) if quoted else None


def _asking(secure: bool, tls: dict[str, Any]) -> dict[str, Any]:
    return {"socket_timeout": _ANSWER_S, "socket_connect_timeout": _ANSWER_S, "ssl": secure, **tls}


class _Known(ABC):
    """Servers that know where the master is; the one that answered last is asked first.

    Args:
        servers: by which to begin.
        access: arguments of the clients that ask them.
    """

    def __init__(self, servers: Sequence[Address], access: dict[str, Any]) -> None:
        self._servers = list(servers)
        self._access = access

    async def find(self) -> Address:
        """Where the master is.

        Raises:
            AuthenticationError: no server knows, and one refuses us.
            ConnectionError: no server knows.
        """
        refusal: RedisError | None = None
        for host, port in tuple(self._servers):
            try:
                async with Redis(host=host, port=port, retry=_ONCE, **self._access) as asked:
                    found = await self._ask(asked, host)
            except (AuthenticationError, NoPermissionError) as error:
                refusal = error
            except (RedisError, OSError):
                continue
            else:
                if found is not None:
                    self._servers.remove((host, port))
                    self._servers.insert(0, (host, port))
                    return found
        if refusal is not None:
            raise refusal
        raise ConnectionError(f"none of {len(self._servers)} servers knows a master")

    @abstractmethod
    async def _ask(self, asked: Redis, host: str) -> Address | None:
        """Where the master is, as far as the server ``asked``, reached at ``host``, knows."""


class Sentinels(_Known):
    """Sentinels that watch the master called ``name``; for the other arguments see ``_Known``."""

    def __init__(self, servers: Sequence[Address], name: str, access: dict[str, Any]) -> None:
        super().__init__(servers, access)
        self._name = name

    async def _ask(self, asked: Redis, host: str) -> Address | None:
        command: Any = asked.execute_command
        answer: Any = await command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        return (answer[0].decode(), int(answer[1])) if answer else None


class ClusterNodes(_Known):
    """Nodes of a Cluster, and which of them serves ``slot``; for the other arguments see ``_Known``."""

    def __init__(self, servers: Sequence[Address], slot: int, access: dict[str, Any]) -> None:
        super().__init__(servers, access)
        self._slot = slot

    async def _ask(self, asked: Redis, host: str) -> Address | None:
        # No callback of the client: its form depends on the version.
        command: Any = asked.execute_command
        ranges: Any = await command("CLUSTER", "SLOTS")
        found = None
        for first, last, *nodes in ranges:
            addresses = [((node[0] or host.encode()).decode(), int(node[1])) for node in nodes]
            self._note(addresses)
            if first <= self._slot <= last and addresses:
                found = addresses[0]
        return found

    def _note(self, nodes: Sequence[Address]) -> None:
        """Nodes to ask when those that were named are gone."""
        for node in nodes:
            if node not in self._servers and len(self._servers) < _NODES_KEPT:
                self._servers.append(node)


class MasterConnection(Connection):
    """A connection to the server that ``find`` names when it is made.

    Args:
        find: names it.
        arguments: of any connection.
    """

    def __init__(self, *, find: Find, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._find = find

    async def _connect(self) -> None:
        self.host, self.port = await self._find()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        """An answer; ends where it says that another server is to be asked."""
        try:
            return await super().read_response(*arguments, **options)
        except _ELSEWHERE as error:
            await self.disconnect()
            raise ConnectionError(f"the server is not the one to ask: {error}") from error


class SecureMasterConnection(MasterConnection, SSLConnection):
    """The same with TLS."""
