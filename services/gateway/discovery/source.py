"""Which pipelines there are: what every way of finding them gives.

Knows addresses alone.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, order=True)
class Address:
    """Where one pipeline is reached; both as host:port."""

    head: str
    """Its audio encoder."""
    decoder: str
    """Its VAE decoder."""

    def __str__(self) -> str:
        return f"{self.head}/{self.decoder}"


Found = Callable[[Set[Address]], None]
"""Takes all pipelines that may get new sessions, and replaces the former list."""


class Discovery(Protocol):
    """A way of finding pipelines."""

    async def run(self, found: Found) -> None:
        """Tells ``found``, in the event loop, what is there at first and after every change; until cancelled.

        Where the source does not answer, the last list stays valid: links find out whether a pipeline works.
        """


def parse_address(text: str) -> Address:
    """An address written ``HEAD/DECODER``."""
    head, _, decoder = text.partition("/")
    return Address(head, decoder)


def join_host(host: str, port: int) -> str:
    """``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
