"""The address of a gateway, as people write it.

Knows the forms alone; nothing of channels.
"""

import re
from ipaddress import AddressValueError, IPv6Address

FORM = "host:port, such as 127.0.0.1:50051 or [::1]:50051"
_PLAIN = ("http", "grpc")
_ENCRYPTED = ("https", "grpcs")
_OF_GRPC = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):.+")
"""Forms that gRPC resolves itself."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^\s:/?#@,\[\]]+):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65_535


def parse_target(text: str, *, encrypted: bool = False) -> str:
    """The address ``text`` as gRPC takes it: host:port, or a form of gRPC's own such as unix:PATH.

    ``http://`` and ``grpc://`` in front and a slash at the end are left out; so are ``https://`` and ``grpcs://`` where
    the channel has credentials.

    Args:
        text: what somebody wrote.
        encrypted: the channel uses TLS.

    Raises:
        ValueError: it is no address, or asks for what the channel is not; the message names the right form.
    """
    address = text.strip()
    if _OF_GRPC.fullmatch(address):
        return address
    if (match := _SCHEME.fullmatch(address)) is not None:
        _check_scheme(text, match[1].lower(), encrypted)
        address = match[2]
    parts = _HOST_AND_PORT.fullmatch(address.removesuffix("/"))
    if parts is None:
        raise ValueError(f"gateway {text!r} {_fault(address.removesuffix('/'))}; the form is {FORM}")
    if not 1 <= int(parts["port"]) <= _MAX_PORT:
        raise ValueError(f"gateway {text!r}: a port lies in 1..{_MAX_PORT}; the form is {FORM}")
    if parts["host"].startswith("[") and not _is_ipv6(parts["host"][1:-1]):
        raise ValueError(f"gateway {text!r}: no IPv6 address stands in the brackets; the form is {FORM}")
    return parts[0]


def asks_for_tls(text: str) -> bool:
    """Whether an address begins with ``https://`` or ``grpcs://``."""
    match = _SCHEME.fullmatch(text.strip())
    return match is not None and match[1].lower() in _ENCRYPTED


def _check_scheme(text: str, scheme: str, encrypted: bool) -> None:
    if scheme in _ENCRYPTED and not encrypted:
        raise ValueError(f"gateway {text!r} asks for TLS, and this channel has no credentials; the form is {FORM}")
    if scheme not in (*_PLAIN, *_ENCRYPTED) or (scheme == "http" and encrypted):
        raise ValueError(f"gateway {text!r}: {scheme}:// is not spoken here; the form is {FORM}")


def _fault(address: str) -> str:
    """What is wrong with an address that is not host:port."""
    if not address:
        return "is empty"
    if _is_ipv6(address) or _is_ipv6(address.rpartition(":")[0]):
        return "is an IPv6 address without brackets"
    if re.fullmatch(r"\[[^\]]+\]|[^\s:/?#@,\[\]]+", address):
        return "has no port"
    if "/" in address:
        return "has a path"
    if re.fullmatch(r"[^\s:/?#@,\[\]]+:[^\s:@,]*", address):
        return "has no number as its port"
    return "is no address"


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True
