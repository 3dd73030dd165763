"""Proxies that the environment names for HTTP, through which gRPC would go as well.

None stands between our services or before anything on this machine; elsewhere gRPC goes as it always does, and whoever
fails there learns which variable was in the way.  Knows variables and addresses; nothing of channels' other options.
"""

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_OF_GRPC = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables that gRPC looks at, the first one that is set; in small letters alone."""
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
_ALL = (*_OF_GRPC, "all_proxy")
_LOCAL_FORMS = ("unix:", "unix-abstract:", "vsock:")
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "http:", "https:")

DIRECT: tuple[tuple[str, int], ...] = (("grpc.enable_http_proxy", 0),)
"""Options of a channel that takes no proxy."""


@dataclass(frozen=True)
class Proxy:
    """One variable that names a proxy."""

    variable: str
    address: str
    """Host and port; what else the variable holds may be a secret."""

    def __str__(self) -> str:
        return f"{self.variable}={self.address}"


def direct_if_local(target: str) -> tuple[tuple[str, int], ...]:
    """Options of a channel to ``target``: no proxy where that is this machine, gRPC's own choice elsewhere."""
    return DIRECT if is_local(target) else ()


def is_local(target: str) -> bool:
    """Whether a gRPC target or a URL names this machine: loopback or a socket in the file system.

    Of a list, whether all of them do.
    """
    if target.startswith(_LOCAL_FORMS):
        return True
    if target.startswith(("ipv4:", "ipv6:")) and "," in target:
        return all(is_local(one) for one in target.partition(":")[2].split(","))
    host = host_of(target)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def host_of(target: str) -> str:
    """The host of ``[scheme:][//authority/]host[:port]``, in small letters and without brackets."""
    rest = target.lower()
    for scheme in _SCHEMES:
        rest = rest.removeprefix(scheme)
    rest = rest.strip("/").rpartition("/")[2]
    if rest.startswith("["):
        return rest[1:].partition("]")[0]
    return rest.rpartition(":")[0] if rest.count(":") == 1 else rest


def proxy_before(target: str, environment: Mapping[str, str] = os.environ) -> Proxy | None:
    """The proxy through which gRPC goes to ``target``; None where it goes by itself."""
    if is_local(target):
        return None
    proxy = next((one for one in proxies(environment) if one.variable in _OF_GRPC), None)
    return None if proxy is None or _is_excepted(host_of(target), environment) else proxy


def proxies(environment: Mapping[str, str] = os.environ) -> Iterator[Proxy]:
    """All variables that name a proxy, those of gRPC first and in its order."""
    names = sorted(
        (name for name in environment if name.lower() in _ALL),
        key=lambda name: (name not in _OF_GRPC, _ALL.index(name.lower()), name),
    )
    for name in names:
        if value := environment[name].strip():
            yield Proxy(name, _address(value))


def _address(value: str) -> str:
    """Host and port of a proxy's URL, without user and password."""
    return urlsplit(value if "://" in value else f"//{value}").netloc.rpartition("@")[2] or "(unreadable)"


def _is_excepted(host: str, environment: Mapping[str, str]) -> bool:
    """Whether the environment excepts a host, by the end of its name or by a network that holds it."""
    listed = next((environment[name] for name in _EXCEPTIONS if environment.get(name)), "")
    entries = [entry.strip().lower() for entry in listed.split(",") if entry.strip()]
    return any(host.endswith(entry) or _holds(entry, host) for entry in entries)


def _holds(network: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
