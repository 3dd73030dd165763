"""Ports for services that must know each other beforehand."""

import socket

import pytest

from live_avatar.launcher import ports
from live_avatar.launcher.child import LaunchError


def test_they_are_free_and_different() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    for port in found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST", port)
        monkeypatch.setattr(ports, "_HIGHEST", port + 1)
        with pytest.raises(LaunchError, match="no 1 free ports"):
            ports.free_ports(1)
