"""Ports for services that must know each other's address before any of them listens."""

import random
import socket

from live_avatar.launcher.child import LaunchError

_LOWEST, _HIGHEST = 20_000, 32_000
"""Below the range from which the system takes ports for outgoing connections, so that nothing takes ours meanwhile."""
_TRIES_PER_PORT = 100


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """``count`` different ports on which nothing listens.

    Raises:
        LaunchError: too few are free.
    """
    ports: list[int] = []
    for _ in range(count * _TRIES_PER_PORT):
        if len(ports) == count:
            return ports
        port = random.randrange(_LOWEST, _HIGHEST)
        if port not in ports and _is_free(host, port):
            ports.append(port)
    raise LaunchError(f"no {count} free ports between {_LOWEST} and {_HIGHEST} on {host}")


def check_free(host: str, port: int) -> None:
    """Raises LaunchError where nobody can listen on ``port`` now; 0 is any free one."""
    if port and not _is_free(host, port):
        raise LaunchError(f"port {port} of {host} is taken or may not be used")


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what ended a moment ago does not count
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
