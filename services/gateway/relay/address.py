"""Where other gateways reach this one.

Knows addresses; nothing of calls.
"""

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from live_avatar.services.gateway.store.servers import hosts

_ANY = ("0.0.0.0", "::")
_STORE_PORT = 6379


def advertised(address: str, host: str, port: int, store_url: str) -> str:
    """The address, as host:port, that is stored with sessions.

    Args:
        address: host or host:port as the operator says; empty: chosen here.
        host: that is listened on.
        port: that is listened on.
        store_url: of the store; whatever reaches that is taken to reach other gateways.

    Raises:
        OSError: no address of this machine leads to the store.
    """
    if not address:
        address = host.strip("[]")
        if address in _ANY:
            address = _own_address(store_url)
    return address if _has_port(address) else f"{bracketed(address)}:{port}"


def _has_port(address: str) -> bool:
    if address.startswith("["):
        return "]:" in address
    return address.count(":") == 1


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    try:
        is_v6 = ip_address(host.strip("[]")).version == 6
    except ValueError:
        return host
    return f"[{host.strip('[]')}]" if is_v6 else host


def _own_address(store_url: str) -> str:
    """The address that packets to the store come from; nothing is sent."""
    store = hosts(store_url)[0] if urlsplit(store_url).netloc else ("localhost", _STORE_PORT)
    family, kind, _, _, target = socket.getaddrinfo(*store, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])
