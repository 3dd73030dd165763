"""What the EndpointSlices of a Service say about pipelines.

Plain data in, addresses out; knows neither HTTP nor threads.  A slice is the decoded JSON of a
``discovery.k8s.io/v1`` EndpointSlice, see https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from live_avatar.services.gateway.discovery.source import Address, join_host

Slice = Mapping[str, Any]
_FAMILIES = ("IPv4", "IPv6", "FQDN")
"""Kinds of addresses; of a pod that has several, the first is taken."""


@dataclass(frozen=True)
class PortNames:
    """Names of the ports at which a pod serves the two ends of its pipeline."""

    head: str
    decoder: str


def pipelines_of(slices: Iterable[Slice], names: PortNames) -> frozenset[Address]:
    """Every pipeline that takes new sessions, once, however many slices and address families list it.

    An endpoint counts when it is ready or says nothing about that; one that ends is not ready.
    """
    found: dict[str, tuple[int, Address]] = {}
    for one in slices:
        rank, ports = _rank(one), _ports(one, names)
        if ports is None:
            continue
        for pod, host in _ready(one):
            address = Address(join_host(host, ports[0]), join_host(host, ports[1]))
            known = found.get(pod)
            if known is None or (rank, address) < known:
                found[pod] = (rank, address)
    return frozenset(address for _, address in found.values())


def _ready(one: Slice) -> Iterator[tuple[str, str]]:
    """Identity and address of every endpoint that takes new work."""
    for endpoint in one.get("endpoints") or ():
        addresses = endpoint.get("addresses") or ()
        conditions = endpoint.get("conditions") or {}
        if addresses and conditions.get("ready") is not False:
            pod = endpoint.get("targetRef") or {}
            yield str(pod.get("uid") or pod.get("name") or addresses[0]), str(addresses[0])


def _rank(one: Slice) -> int:
    family = one.get("addressType")
    return _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES)


def _ports(one: Slice, names: PortNames) -> tuple[int, int] | None:
    """Ports of head and decoder; None where the slice lacks one of them."""
    ports = {port.get("name"): port.get("port") for port in one.get("ports") or ()}
    head, decoder = ports.get(names.head), ports.get(names.decoder)
    return None if head is None or decoder is None else (int(head), int(decoder))
