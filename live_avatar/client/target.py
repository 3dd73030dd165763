"""The address of a gateway, or of several, as people write it.

Knows the forms alone; nothing of channels.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

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

    Several IP addresses of one family, with commas between them, stand for as many gateways: the first that answers is
    used, and the next ones once it does not.

    ``http://`` and ``grpc://`` in front and a slash at the end are left out; so are ``https://`` and ``grpcs://`` where
    the channel has credentials.

    Args:
        text: what somebody wrote.
        encrypted: the channel uses TLS.

    Raises:
        ValueError: it is no address, or asks for what the channel is not; the message names the right form.
    """
    if "," in text and ":" in text and not _OF_GRPC.fullmatch(text.strip()):
        return _several(text, encrypted=encrypted)
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


def _several(text: str, *, encrypted: bool) -> str:
    """A list of addresses in gRPC's own form, which has none for names."""
    if encrypted:
        raise ValueError(f"gateway {text!r}: a certificate is checked against one name; use one that has all addresses")
    each = [parse_target(part) for part in text.split(",")]
    hosts = [address.rpartition(":")[0] for address in each]
    for family, is_one in (("ipv4", _is_ipv4), ("ipv6", lambda host: host.startswith("["))):
        if all(map(is_one, hosts)):
            return f"{family}:{','.join(each)}"
    raise ValueError(
        f"gateway {text!r} is no list of IP addresses of one family; the form is {FORM}, several with commas"
    )


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


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True
