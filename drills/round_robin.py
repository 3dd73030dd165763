"""Sessions whose calls a balancer spreads over the gateways in turn, so that each reaches another one."""

import asyncio

from benchmarks.sessions import portrait, speech
from drills.cluster import running
from drills.place import Numbers, Place
from live_avatar.client import AvatarClient, AvatarError, SessionOptions, VideoUnit
from live_avatar.config import SAMPLE_RATE_HZ, TINY

AT_ONCE = 8
BLOCKS = 2
_OPTIONS = SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, video="rgb24")


def balancer(place: Place) -> Numbers:
    """Sessions through a balancer that sends every call to another gateway."""
    return asyncio.run(_balancer(place))


async def _balancer(place: Place) -> Numbers:
    refusals: list[AvatarError] = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(client: AvatarClient) -> None:
        async with turns:
            try:
                await _session(client)
            except AvatarError as error:
                refusals.append(error)
                place.report(f"refused: {error}")

    async with running(place.plan("balancer")) as cluster, AvatarClient(cluster.target) as client:
        await asyncio.gather(*(one(client) for _ in range(place.sessions)))
    return {
        "wrong_gateway": float(sum(error.reason == "WRONG_GATEWAY" for error in refusals)),
        "balancer_sessions": float(place.sessions),
        "balancer_refusals": float(len(refusals)),
    }


async def _session(client: AvatarClient) -> None:
    """Creation, stream, update and end; each a call of its own."""
    session = await client.create_session(portrait(64, 64), _OPTIONS)
    frames = 0
    async with session.stream() as stream:
        await stream.send_audio(speech(BLOCKS * TINY.samples_per_block / SAMPLE_RATE_HZ))
        await session.change_prompt("a person smiles")
        await stream.send_audio(speech(BLOCKS * TINY.samples_per_block / SAMPLE_RATE_HZ))
        await stream.end()
        async for result in stream:
            frames += isinstance(result, VideoUnit)
    await session.close()
    assert frames, "a session without a frame"
