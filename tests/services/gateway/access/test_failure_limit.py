"""How many bad credentials one address may try."""

import grpc
import pytest

from live_avatar.services.gateway.access.failure_limit import FailureLimit, peer_address
from live_avatar.serving.errors import ServiceError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(limit: FailureLimit, address: str, most: int = 1_000) -> int:
    """How many failures an address may make now."""
    for count in range(most):
        try:
            limit.take(address)
        except ServiceError:
            return count
    return most


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:51234", "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:443", "2001:db8::1"),
        ("ipv6:[::1]:443", "::1"),
        ("unix:/run/gateway", "unix:/run/gateway"),
        ("", ""),
    ],
)
def test_addresses_lose_their_ports(peer: str, address: str) -> None:
    assert peer_address(peer) == address


def test_a_burst_is_bounded_and_comes_back_with_time() -> None:
    clock = Clock()
    limit = FailureLimit(per_minute=60, clock=clock)
    assert taken(limit, "192.0.2.1") == 10
    with pytest.raises(ServiceError) as refused:
        limit.take("192.0.2.1")
    error = refused.value
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_FAILURES")
    assert error.retry_after_s == pytest.approx(1.0)
    clock.now += error.retry_after_s or 0
    assert taken(limit, "192.0.2.1") == 1
    clock.now += 1_000
    assert taken(limit, "192.0.2.1") == 10
    assert taken(limit, "192.0.2.2") == 10


def test_what_was_no_failure_is_given_back() -> None:
    limit = FailureLimit(per_minute=60, clock=Clock())
    for _ in range(100):
        limit.take("192.0.2.1")
        limit.give_back("192.0.2.1")
    assert taken(limit, "192.0.2.1") == 10


def test_a_network_of_ipv6_is_one_caller() -> None:
    limit = FailureLimit(per_minute=6, clock=Clock())
    limit.take("2001:db8::1")
    with pytest.raises(ServiceError):
        limit.take("2001:db8::ffff:2")
    limit.take("2001:db8:0:1::1")


def test_the_table_is_bounded() -> None:
    limit = FailureLimit(per_minute=6, most_addresses=10, clock=Clock())
    for number in range(1_000):
        limit.take(f"10.0.{number // 256}.{number % 256}")
    assert len(limit._buckets) == 10
