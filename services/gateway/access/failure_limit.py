"""Bounds how many bad credentials one network address may try.

A token bucket per address in a bounded table; knows nothing of credentials.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import unquote

from live_avatar.services.gateway.access.refusals import too_many_failures

_BURST_S = 10.0
"""So many seconds' worth of failures may come at once."""
_MOST_ADDRESSES = 10_000
_SUBNET_BITS = 64
"""A caller with IPv6 has a network of this length at its disposal."""


def peer_address(peer: str) -> str:
    """The network address in what gRPC calls a peer, without its port; ``peer`` itself where it has none.

    >>> peer_address("ipv4:192.0.2.7:51234")
    '192.0.2.7'
    """
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in ("ipv4", "ipv6"):
        return peer
    return rest.rpartition(":")[0].strip("[]").partition("%")[0]


def subnet_of(address: str) -> str:
    """What failures are counted for: an IPv4 address itself, the network of 64 bits around an IPv6 address."""
    try:
        number = ip_address(address)
    except ValueError:
        return address
    if not isinstance(number, IPv6Address):
        return address
    return str(number.ipv4_mapped or ip_network((number, _SUBNET_BITS), strict=False))


class FailureLimit:
    """Token buckets by network address; the address that was used least recently leaves a full table.

    Args:
        per_minute: failures that an address may make in the long run.
        most_addresses: size of the table.
        clock: seconds that only grow.
    """

    def __init__(
        self, per_minute: int, most_addresses: int = _MOST_ADDRESSES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s = per_minute / 60
        self._burst = max(1.0, self._per_s * _BURST_S)
        self._most = most_addresses
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens left, and when they were counted."""

    def take(self, address: str) -> None:
        """Counts an attempt as a failure, before it is known to be one.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED/TOO_MANY_FAILURES; the address has none left.
        """
        name, left = subnet_of(address), self._left(address)
        if left < 1:
            raise too_many_failures((1 - left) / self._per_s)
        self._put(name, left - 1)

    def give_back(self, address: str) -> None:
        """Takes back what ``take`` counted: the attempt was no failure."""
        self._put(subnet_of(address), min(self._burst, self._left(address) + 1))

    def _left(self, address: str) -> float:
        now = self._clock()
        tokens, at = self._buckets.get(subnet_of(address), (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._per_s)

    def _put(self, name: str, tokens: float) -> None:
        self._buckets[name] = (tokens, self._clock())
        self._buckets.move_to_end(name)
        while len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
