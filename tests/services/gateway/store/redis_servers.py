"""Real Redis processes: with a replica and a Sentinel, as a Cluster, and with TLS."""

import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

HOST = "127.0.0.1"
START_S = 30.0


def free_port() -> int:
    """One above which the port of a Cluster's node, 10,000 higher, is free too."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind((HOST, port))
                second.bind((HOST, port + 10_000))
            except OSError:
                continue
        return port


def asked(port: int, *words: str, tls: tuple[str, ...] = ()) -> str:
    """The answer of a server to one command."""
    command = ["redis-cli", "-h", HOST, "-p", str(port), *tls, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S).stdout.strip()


def until(holds: Callable[[], bool], what: str) -> None:
    """Returns once something holds."""
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def server(folder: Path, port: int, *flags: str, tls: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """One server that answers."""
    folder.mkdir(parents=True, exist_ok=True)
    where = ("--port", str(port)) if not tls else ()
    command = ["redis-server", *where, "--bind", HOST, "--save", "", "--dir", str(folder), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until(
            lambda: asked(port, "ping", tls=tls).startswith(("PONG", "NOAUTH")),
            f"redis-server does not answer at {port}",
        )
        yield process
    finally:
        process.kill()
        process.wait(START_S)


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Three nodes without replicas; the URL of the Cluster names two of them."""
    with ExitStack() as stack:
        ports: list[int] = []
        for number in range(3):
            ports.append(_unused(ports))
            flags = ("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{number}.conf")
            stack.enter_context(server(folder / str(number), ports[-1], *flags))
        nodes = [f"{HOST}:{port}" for port in ports]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"],
            check=True,
            timeout=START_S,
            stdout=subprocess.DEVNULL,
        )
        for port in ports:
            until(partial(_is_joined, port), "no cluster")
        yield f"redis+cluster://{nodes[0]},{nodes[1]}"


def _is_joined(port: int) -> bool:
    return "cluster_state:ok" in asked(port, "cluster", "info")


def _unused(ports: list[int]) -> int:
    while (port := free_port()) in ports:
        pass
    return port


@contextmanager
def watched(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], int]]:
    """A master with a replica and a Sentinel; the URL, the master's process, and the replica's port."""
    master_port, replica_port = free_port(), free_port()
    sentinel_port = free_port()
    with ExitStack() as stack:
        master = stack.enter_context(server(folder / "master", master_port))
        stack.enter_context(server(folder / "replica", replica_port, "--replicaof", HOST, str(master_port)))
        until(lambda: "master_link_status:up" in asked(replica_port, "info", "replication"), "no replica")
        configuration = folder / "sentinel.conf"
        configuration.write_text(
            f"port {sentinel_port}\nbind {HOST}\ndir {folder}\n"
            f"sentinel monitor avatars {HOST} {master_port} 1\n"
            "sentinel down-after-milliseconds avatars 500\n"
            "sentinel failover-timeout avatars 3000\n"
        )
        sentinel = subprocess.Popen(["redis-server", str(configuration), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            until(lambda: "slaves=1" in asked(sentinel_port, "info", "sentinel"), "the sentinel sees no replica")
            yield f"redis+sentinel://{HOST}:{sentinel_port}/avatars/0", master, replica_port
        finally:
            sentinel.kill()
            sentinel.wait(START_S)
