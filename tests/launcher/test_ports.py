"""Ports for services that must know each other beforehand."""

import socket
from pathlib import Path

import pytest

from live_avatar.launcher import ports
from live_avatar.launcher.child import LaunchError
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import LocalPipeline, Plan


def test_they_are_free_and_different() -> None:
    """All but those that somebody else on this machine has taken meanwhile."""
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    taken = 0
    for port in found:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                taken += 1
    assert taken <= 2


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST", port)
        monkeypatch.setattr(ports, "_HIGHEST", port + 1)
        with pytest.raises(LaunchError, match="no 1 free ports"):
            ports.free_ports(1)


def test_a_port_that_is_taken_is_printed_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        plan = Plan(layout=parse_layout("1x1"), gateway_port=port, logs=tmp_path / "logs")
        pipeline = LocalPipeline(plan, pytest.fail)
        with pytest.raises(LaunchError, match=f"port {port} of 127.0.0.1 is taken"), pipeline:
            raise AssertionError("it must not start")
    assert not pipeline.services
