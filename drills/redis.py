"""A Redis with a replica and a sentinel, which keep everything in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drills.process import HOST, Process

MASTER = "live-avatar"
DOWN_MS, FAILOVER_MS = 2_000, 10_000
_SENTINEL = """
port {port}
bind {host}
dir {folder}
sentinel monitor {master} {host} {primary} 1
sentinel down-after-milliseconds {master} {down_ms}
sentinel failover-timeout {master} {failover_ms}
sentinel parallel-syncs {master} 1
"""


@dataclass(frozen=True)
class Store:
    """The processes of the store."""

    primary: Process
    replica: Process
    sentinel: Process

    @property
    def processes(self) -> Sequence[Process]:
        """All, in the order of their start."""
        return (self.primary, self.replica, self.sentinel)


def store(ports: Sequence[int], folder: Path) -> Store:
    """A store that does not run yet.

    Args:
        ports: of primary, replica and sentinel.
        folder: that gets logs and the sentinel's memory.
    """
    primary, replica, sentinel = ports
    follow = ("--replicaof", f"{HOST} {primary}")
    file = folder / "sentinel.conf"
    file.write_text(
        _SENTINEL.format(
            port=sentinel,
            host=HOST,
            folder=folder,
            master=MASTER,
            primary=primary,
            down_ms=DOWN_MS,
            failover_ms=FAILOVER_MS,
        )
    )
    log = folder / "sentinel.log"
    return Store(
        _server("redis-primary", primary, folder),
        _server("redis-replica", replica, folder, *follow),
        Process("sentinel", ["redis-server", str(file), "--sentinel"], sentinel, log),
    )


def _server(name: str, port: int, folder: Path, *flags: str) -> Process:
    own = folder / name
    own.mkdir(exist_ok=True)
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--dir", str(own)]
    quick = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
    return Process(name, [*command, *quick, *flags], port, folder / f"{name}.log")
