"""HAProxy before several gateways: HTTP/2 on both sides, every call to the next one in turn."""

from collections.abc import Sequence
from pathlib import Path

from drills.packages import find_program
from drills.process import HOST, Process

PACKAGES = ("haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1")
# Client's first bytes of HTTP/2 and empty SETTINGS, which a server answers with its own.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
# The kernel accepts connections for a frozen gateway: the check needs an answer, and streams to a gateway that gives
# none are ended.
_CONFIGURATION = """
global
    maxconn 4096
defaults
    mode http
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout check 1s
    retries 3
    option redispatch
frontend calls
    bind {host}:{port} proto h2
    default_backend gateways
backend gateways
    balance roundrobin
    option tcp-check
    tcp-check connect
    tcp-check send-binary {preface}
    tcp-check expect rbinary ^.{{6}}04
    default-server proto h2 check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""


def balancer(port: int, gateways: Sequence[str], folder: Path) -> Process:
    """A balancer on ``port``; raises ProgramMissingError where there is no HAProxy.

    Args:
        port: where it listens.
        gateways: their addresses.
        folder: that gets its configuration and its log.
    """
    program = find_program("haproxy", PACKAGES)
    servers = "\n".join(f"    server gateway-{number} {address}" for number, address in enumerate(gateways))
    file = folder / "haproxy.cfg"
    file.write_text(_CONFIGURATION.format(host=HOST, port=port, servers=servers, preface=_PREFACE.hex()))
    command = [str(program.path), "-f", str(file), "-db"]
    return Process("balancer", command, port, folder / "balancer.log", program.environment)
