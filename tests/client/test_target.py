"""Addresses of gateways as people write them."""

import asyncio

import grpc
import pytest

from live_avatar.client import AvatarClient
from live_avatar.client.target import parse_target
from live_avatar.proxies import is_local


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        (" avatar_gateway.svc:443 ", "avatar_gateway.svc:443"),
        ("[::1]:50051", "[::1]:50051"),
        ("http://localhost:50051/", "localhost:50051"),
        ("HTTP://localhost:50051", "localhost:50051"),
        ("grpc://[fe80::1]:1", "[fe80::1]:1"),
        ("localhost:1/", "localhost:1"),
        ("unix:/run/avatar.sock", "unix:/run/avatar.sock"),
        ("dns:///gateway:50051", "dns:///gateway:50051"),
        ("127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("10.0.0.1:1, grpc://10.0.0.2:2/", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_what_is_clear_is_taken(text: str, target: str) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("localhost", "has no port"),
        ("http://localhost", "has no port"),
        ("[::1]", "has no port"),
        ("host:port", "has no number as its port"),
        ("http://host:port", "has no number as its port"),
        ("localhost:0", "a port lies in 1..65535"),
        ("localhost:65536", "a port lies in 1..65535"),
        ("::1", "IPv6 address without brackets"),
        ("::1:50051", "IPv6 address without brackets"),
        ("fe80::1:50051", "IPv6 address without brackets"),
        ("[nothing]:1", "no IPv6 address stands in the brackets"),
        ("localhost:1/path", "has a path"),
        ("https://localhost:1", "asks for TLS"),
        ("ftp://localhost:1", "ftp:// is not spoken here"),
        ("user@localhost:1", "is no address"),
        ("local host:1", "is no address"),
        ("a:1,b:2", "is no list of IP addresses of one family"),
        ("127.0.0.1:1,[::1]:2", "is no list of IP addresses of one family"),
        ("127.0.0.1:1,", "is empty"),
        ("127.0.0.1:1,127.0.0.1", "has no port"),
    ],
)
def test_what_is_not_is_one_clear_line(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match="gateway") as error:
        parse_target(text)
    assert fault in str(error.value)
    assert "the form is host:port, such as 127.0.0.1:50051" in str(error.value)
    with pytest.raises(ValueError, match="the form is host:port"):
        AvatarClient(text)


def test_https_is_for_channels_with_credentials() -> None:
    async def main() -> str:
        async with AvatarClient("https://localhost:1", grpc.ssl_channel_credentials()) as client:
            return client.target

    assert asyncio.run(main()) == "localhost:1"
    with pytest.raises(ValueError, match="http:// is not spoken here"):
        AvatarClient("http://localhost:1", grpc.ssl_channel_credentials())


def test_a_list_has_no_name_for_a_certificate() -> None:
    with pytest.raises(ValueError, match="checked against one name"):
        AvatarClient("127.0.0.1:1,127.0.0.1:2", grpc.ssl_channel_credentials())


@pytest.mark.parametrize(("second", "local"), [("127.0.0.2", True), ("10.0.0.1", False)])
def test_a_list_is_local_where_all_of_it_is(second: str, *, local: bool) -> None:
    assert is_local(parse_target(f"127.0.0.1:1,{second}:2")) is local
