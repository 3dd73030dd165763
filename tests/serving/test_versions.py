"""Neighbours of two versions: the newest protocol and the one before it work side by side."""

import asyncio

import pytest

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo, StreamBlocksRequest
from live_avatar.serving import hop, upstream
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.priming import check_chain
from live_avatar.serving.timing import PRIMING_VERSION, PROTOCOL_VERSION, SERVED_VERSIONS
from tests.serving.fakes import DIGEST, FakeWork, RawStream, block, chain, linked, opening, serving, until

OLDER = PROTOCOL_VERSION - 1


@pytest.fixture
def older_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that know the version before and no other, whoever calls them."""
    monkeypatch.setattr(upstream, "SERVED_VERSIONS", (OLDER,))
    monkeypatch.setattr(hop, "PROTOCOL_VERSION", OLDER)


@pytest.mark.parametrize(("version", "served"), [(OLDER - 1, False), *((version, True) for version in SERVED_VERSIONS)])
def test_a_service_takes_its_version_and_the_one_before(version: int, served: bool) -> None:
    async def scenario() -> None:
        hello = StreamBlocksRequest.Hello(protocol_version=version, peer="test", expected_model_digest=DIGEST)
        async with serving(FakeWork(last=True)) as head, RawStream(head.target) as call:
            await call.write(StreamBlocksRequest(hello=hello))
            if served:
                assert (await call.read()).welcome.services[0].protocol_version == PROTOCOL_VERSION
            else:
                assert (await call.end()).reason == "PROTOCOL_VERSION"

    asyncio.run(scenario())


@pytest.mark.usefixtures("older_services")
def test_a_link_reaches_an_older_service_which_works_as_before() -> None:
    async def scenario() -> None:
        async with (
            chain([FakeWork(), FakeWork(last=True)]) as [head, _],
            linked(head.target) as (link, received),
        ):
            assert [service.protocol_version for service in link.services] == [OLDER, OLDER]
            await link.send(opening("a"))
            await link.send(block("a", 0))
            await until(lambda: received.acks == [0])
            assert not received.failed

    asyncio.run(scenario())


@pytest.mark.usefixtures("older_services")
def test_no_session_is_primed_on_an_older_service() -> None:
    async def scenario() -> None:
        works = [FakeWork(), FakeWork(last=True)]
        async with chain(works) as [head, _], linked(head.target) as (link, received):
            primed = opening("a")
            primed.open.primed_blocks = 1
            await link.send(primed)
            await until(lambda: [failed.reason for failed in received.failed] == ["PROTOCOL_VERSION"])
            await until(lambda: not works[0].open_sessions)
            assert not works[1].open_sessions

    asyncio.run(scenario())


def test_a_session_is_primed_where_all_services_can() -> None:
    request = StreamBlocksRequest.Open(primed_blocks=1)
    able, unable = (ServiceInfo(name="one", protocol_version=PRIMING_VERSION - less) for less in (0, 1))
    check_chain(request, [able, able])
    check_chain(StreamBlocksRequest.Open(), [unable])
    with pytest.raises(ServiceError, match="PROTOCOL_VERSION"):
        check_chain(request, [able, unable])
