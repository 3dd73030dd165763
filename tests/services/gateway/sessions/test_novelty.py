"""A portrait that the weights do not know: what the client learns, and when."""

import asyncio

import grpc
import pytest

from live_avatar.client.errors import from_status
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitResponse
from live_avatar.v1 import avatar_service_pb2 as api
from tests.services.gateway.clients import BLOCK_SAMPLES, Response, movie, whole_system

Event = Response.Event
DELIVERIES = (api.DELIVERY_OFFLINE, api.DELIVERY_LIVE)


def receive(novelty: EncodePortraitResponse.Novelty | None, delivery: int) -> list[Response]:
    """All that a client hears of a short film."""

    async def scenario() -> list[Response]:
        async with whole_system() as running:
            running.pipeline.decoder.novelty = novelty
            received = await movie(running, BLOCK_SAMPLES * 2, delivery=delivery)
            await running.freed()
            return received

    return asyncio.run(scenario())


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_an_unlike_portrait_is_printed_before_any_video(delivery: int) -> None:
    reported = EncodePortraitResponse.Novelty(measured=3.4, threshold=1.5, trained_on="drawn faces")
    received = receive(reported, delivery)
    warned = [place for place, one in enumerate(received) if one.event.kind == Event.KIND_WARNING]
    video = [place for place, one in enumerate(received) if one.HasField("video_unit")]
    assert len(warned) == 1
    assert warned[0] < video[0]
    warning = from_status(received[warned[0]].event.warning)
    assert (warning.code, warning.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PORTRAIT_UNLIKE_TRAINING")
    assert warning.metadata == {"measured": "3.400", "threshold": "1.5"}
    assert "drawn faces" in warning.message and "smear" in warning.message


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("measured", [0.7, None])
def test_other_portraits_bring_no_warning(measured: float | None, delivery: int) -> None:
    reported = None if measured is None else EncodePortraitResponse.Novelty(measured=measured, threshold=1.5)
    assert not any(one.event.HasField("warning") for one in receive(reported, delivery))
