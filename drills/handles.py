"""Forged, foreign, old and replayed resume handles, each through another gateway than the call before."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import grpc

from benchmarks.sessions import portrait, speech
from drills.cluster import running
from drills.place import Numbers, Place
from live_avatar.client import AvatarError, SessionOptions
from live_avatar.client.errors import from_rpc_error
from live_avatar.client.stream import Call
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub

if TYPE_CHECKING:
    from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceAsyncStub

BLOCKS = 12
CREDITS = 256
ANSWER_S = 30.0
_OPTIONS = SessionOptions(sample_rate_hz=SAMPLE_RATE_HZ, video="h264", delivery="live")
_Request = api.StreamAvatarRequest
_Response = api.StreamAvatarResponse


class Conversation:
    """One session, on one stream at a time."""

    def __init__(self, stub: "AvatarServiceAsyncStub", token: str) -> None:
        self._stub = stub
        self.token = token
        self.handles: list[str] = []
        self.blocks: list[int] = []
        """Of the units of video, in their order."""
        self._call: Call | None = None

    async def open(self, handle: str = "") -> None:
        """Opens a stream; raises AvatarError where it is refused."""
        self._call = self._stub.StreamAvatar()
        opening = _Request.Open(
            session_token=self.token, resume_handle=handle, initial_video_credits=CREDITS, resumable=True
        )
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the answer says why
            await self._call.write(_Request(open=opening))
        await self.receive()

    async def say(self, sequence: int, **payload: object) -> None:
        """Sends a message."""
        assert self._call is not None
        await self._call.write(_Request(client_sequence=sequence, **payload))  # type: ignore[arg-type]

    async def receive(self) -> bool:
        """Takes the next message; False after the last, or after the one that says that all was sent."""
        assert self._call is not None
        try:
            async with asyncio.timeout(ANSWER_S):
                response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        if not isinstance(response, _Response):
            return False
        match response.WhichOneof("payload"):
            case "opened":
                self.handles.append(response.opened.resume_handle)
            case "video_unit":
                self.blocks.append(response.video_unit.block_index)
            case "resumption_update":
                self.handles.append(response.resumption_update.resume_handle)
                return response.resumption_update.resumable
        return True

    async def until(self, blocks: int) -> None:
        """Returns when so many units have come."""
        while len(self.blocks) < blocks:
            await self.receive()

    def cut(self) -> None:
        """Ends the call."""
        assert self._call is not None
        self._call.cancel()


def handles(place: Place) -> Numbers:
    """Handles that are forged, foreign, old or replayed: refused with a reason, and nothing changes."""
    return asyncio.run(_handles(place))


async def _handles(place: Place) -> Numbers:
    async with running(place.plan("handles")) as cluster, _stub(cluster.target) as stub:
        one, other = [await _begun(stub) for _ in range(2)]
        accepted = 0
        for conversation in (one, other):
            await conversation.until(2)
            conversation.cut()
        wrong = {**_forged(one.handles[-1]), "foreign": (other.handles[-1], "HANDLE_FOREIGN")}
        accepted += await _tried(one, wrong, place)
        first = one.handles[-1]
        await one.open(first)
        # A message proves that the answer has come; until then the handle could be needed again.
        await one.say(3, credit=_Request.Credit(video_units=1))
        await one.until(len(one.blocks) + 2)
        wrong = {"replayed": (first, "HANDLE_USED"), "of a stream before": (one.handles[0], "HANDLE_USED")}
        accepted += await _tried(Conversation(stub, one.token), wrong, place)
        while await one.receive():
            pass
        harmed = one.blocks[-1] < BLOCKS - 1
    return {"handles_accepted": float(accepted), "handles_sessions_harmed": float(harmed)}


def _forged(handle: str) -> Mapping[str, tuple[str, str]]:
    """Handles that no gateway has made, with the reason of their refusal."""
    body, _, mac = handle.rpartition(".")
    start, _, block = body.rpartition(".")
    forged = {
        "no handle": "0" * 64,
        "another signature": f"{body}.{'A' * len(mac)}",
        "another block": f"{start}.{int(block) + 1}.{mac}",
        "half": handle[: len(handle) // 2],
    }
    return {name: (text, "HANDLE_INVALID") for name, text in forged.items()}


async def _tried(conversation: Conversation, wrong: Mapping[str, tuple[str, str]], place: Place) -> int:
    """How many handles were accepted, or refused for another reason than theirs."""
    accepted = 0
    for name, (handle, reason) in wrong.items():
        try:
            await conversation.open(handle)
        except AvatarError as error:
            place.report(f"{name}: {error.code.name} {error.reason}")
            accepted += error.reason != reason
        else:
            place.report(f"{name}: accepted")
            accepted += 1
            conversation.cut()
    return accepted


async def _begun(stub: "AvatarServiceAsyncStub") -> Conversation:
    """A session that was sent all of its speech."""
    request = api.CreateSessionRequest(reference_image=portrait(64, 64), config=_OPTIONS.to_message())
    created = await stub.CreateSession(request, timeout=ANSWER_S)
    conversation = Conversation(stub, created.session_token)
    await conversation.open()
    samples = speech(BLOCKS * TINY.samples_per_block / SAMPLE_RATE_HZ)
    await conversation.say(1, audio_chunk=_Request.AudioChunk(data=samples))
    await conversation.say(2, finish=_Request.Finish())
    return conversation


@asynccontextmanager
async def _stub(target: str) -> AsyncIterator["AvatarServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(target) as channel:
        yield AvatarServiceStub(channel)
