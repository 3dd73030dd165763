"""Which targets are this machine's, and which proxy of the environment stands before the others."""

import pytest

from live_avatar.proxies import DIRECT, Proxy, direct_if_local, is_local, proxies, proxy_before

PROXY = "http://user:secret@proxy.example:3128"


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:1", "127.1.2.3:50051", "localhost:1", "LOCALHOST:1", "[::1]:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1",
        "dns:///localhost:1", "dns:localhost:1", "unix:/tmp/socket", "unix:///tmp/socket", "unix-abstract:name",
        "a.localhost:1", "http://localhost:4317", "http://127.0.0.1:4317", "0.0.0.0:1", "::1",
    ],
)  # fmt: skip
def test_this_machine_is_reached_without_a_proxy(target: str) -> None:
    assert is_local(target)
    assert direct_if_local(target) == DIRECT
    assert proxy_before(target, {"http_proxy": PROXY}) is None


@pytest.mark.parametrize(
    "target", ["gateway:50051", "10.0.0.7:1", "localhost.example:1", "[2001:db8::1]:1", "dns:///a.example:1", "127.x:1"]
)
def test_another_machine_may_be_reached_through_one(target: str) -> None:
    assert not is_local(target) and direct_if_local(target) == ()
    assert proxy_before(target, {"http_proxy": PROXY}) == Proxy("http_proxy", "proxy.example:3128")


def test_the_first_variable_counts_and_no_secret_is_shown() -> None:
    environment = {"http_proxy": "last:1", "https_proxy": "second:1", "grpc_proxy": PROXY, "HTTP_PROXY": "upper:1"}
    assert str(proxy_before("gateway:1", environment)) == "grpc_proxy=proxy.example:3128"
    assert [proxy.variable for proxy in proxies(environment)] == [
        "grpc_proxy", "https_proxy", "http_proxy", "HTTP_PROXY"
    ]  # fmt: skip
    assert not any("secret" in str(proxy) for proxy in proxies(environment))
    assert proxy_before("gateway:1", {"HTTP_PROXY": PROXY}) is None  # gRPC knows small letters alone
    assert list(proxies({"http_proxy": "", "PATH": "/bin"})) == []


@pytest.mark.parametrize("excepted", ["gateway.example", ".example", "a.b, 10.0.0.0/8,gateway.example"])
def test_hosts_that_are_excepted_go_by_themselves(excepted: str) -> None:
    environment = {"http_proxy": PROXY, "no_proxy": excepted}
    assert proxy_before("gateway.example:1", environment) is None
    assert proxy_before("other.test:1", environment) is not None
    assert (proxy_before("10.1.2.3:1", environment) is None) == ("10." in excepted)
    assert proxy_before("gateway.example:1", {**environment, "no_grpc_proxy": "elsewhere"}) is not None
