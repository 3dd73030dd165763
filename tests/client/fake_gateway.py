"""A gateway that answers without a pipeline: every block is the same grey picture, and it checks what it is sent."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from live_avatar.config import TINY
from live_avatar.services.gateway.video.muxer import EncodedFrames, FragmentedMp4
from live_avatar.services.vae_decoder.h264 import H264Encoder
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceServicer, add_AvatarServiceServicer_to_server

SIDE = 64
TOKEN = "a token"
Response = api.StreamAvatarResponse
Requests = Iterator[api.StreamAvatarRequest]


def rich_status(code: grpc.StatusCode, reason: str, retry_after_s: int | None = None) -> status_pb2.Status:
    """A status with google.rpc details, as the gateway sends it."""
    status = status_pb2.Status(code=code.value[0], message="a sentence")
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="live-avatar", metadata={"field": "image"})]
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(retry_after_s)
        details.append(retry)
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class FakeGateway(AvatarServiceServicer):
    """Notes what comes; ``deliver`` makes the answers to a recording."""

    def __init__(self) -> None:
        self.created: list[api.CreateSessionRequest] = []
        self.closed: list[str] = []
        self.speech = b""
        self.refusal: status_pb2.Status | None = None
        self.deliver: Callable[[FakeGateway, Requests], Iterator[Response]] = FakeGateway.talk

    def GetServerInfo(self, request: api.GetServerInfoRequest, context: Any) -> api.GetServerInfoResponse:
        info = api.GetServerInfoResponse(preset=TINY.name, session_capacity=1, pipelines=["one"])
        info.limits.max_image_bytes = 100_000
        info.limits.max_whole_file.FromSeconds(10)
        info.limits.open_timeout.FromMilliseconds(2500)
        return info

    def CreateSession(self, request: api.CreateSessionRequest, context: Any) -> api.CreateSessionResponse:
        self.created.append(request)
        if self.refusal is not None:
            context.abort_with_status(rpc_status.to_status(self.refusal))
        return api.CreateSessionResponse(session=api.Session(session_id="one"), session_token=TOKEN)

    def CloseSession(self, request: api.CloseSessionRequest, context: Any) -> api.CloseSessionResponse:
        self.closed.append(request.session_id)
        return api.CloseSessionResponse()

    def StreamAvatar(self, request_iterator: Requests, context: Any) -> Iterator[Response]:
        first = next(request_iterator)
        assert (first.WhichOneof("payload"), first.open.session_token) == ("open", TOKEN)
        opened = Response(opened=Response.Opened(session=api.Session(session_id="one")))
        opened.opened.negotiated_video.width = opened.opened.negotiated_video.height = SIDE
        opened.opened.negotiated_video.frames_per_second = TINY.stream.fps
        yield opened
        self.credits = first.open.initial_video_credits
        self.sequence = first.client_sequence
        yield from self.deliver(self, request_iterator)
        if self.refusal is not None:
            context.abort_with_status(rpc_status.to_status(self.refusal))

    def take(self, requests: Requests) -> str:
        """Reads one message, checks its place, and says what it was."""
        request = next(requests)
        assert request.client_sequence == self.sequence + 1
        self.sequence += 1
        kind = request.WhichOneof("payload")
        if kind == "audio_chunk":
            assert request.audio_chunk.sample_offset == len(self.speech) // 2
            self.speech += request.audio_chunk.data
        if kind == "credit":
            self.credits += request.credit.video_units
        return str(kind)

    def receive(self, requests: Requests) -> None:
        """Reads to the end of the speech."""
        while self.take(requests) != "finish":
            pass

    def talk(self, requests: Requests) -> Iterator[Response]:
        """Hears everything, then shows it as a file of fragments, for which the client grants credits."""
        self.receive(requests)
        rate = self.created[-1].config.audio.sample_rate_hz
        samples = np.frombuffer(self.speech, "<i2").astype(np.float32) / np.float32(32_768)
        muxer, encoder = FragmentedMp4(TINY, (SIDE, SIDE), rate), H264Encoder(SIDE, SIDE, TINY.stream.fps)
        grey = np.full((TINY.frames_per_block, SIDE, SIDE, 3), 128, np.uint8)
        per_block = TINY.frames_per_block * rate // TINY.stream.fps
        for block in range(-(-len(samples) // per_block)):
            dropped = TINY.stream.dropped_frames
            shown = grey[dropped:] if block == 0 else grey
            frames = tuple(encoder.encode(shown, starts_block=True))
            first = max(0, block * TINY.frames_per_block - dropped)
            speech = samples[block * per_block : (block + 1) * per_block]
            for unit in muxer.mux(EncodedFrames(block=block, first_frame=first, frames=frames), speech):
                yield self._unit(block, unit.data, first, len(frames))
        yield self._unit(block + 1, muxer.finish(), first + len(frames), 0)

    def _unit(self, block: int, data: bytes, first: int, count: int) -> Response:
        unit = Response.VideoUnit(data=data, block_index=block, first_frame_index=first, frame_count=count)
        unit.span.end_time.FromNanoseconds((first + count + TINY.stream.dropped_frames) * 40_000_000)
        timing = unit.timings.add(service="decoder")
        timing.compute_time.FromMilliseconds(10 * (block + 1))
        return Response(video_unit=unit)


def fake_gateway() -> FakeGateway:
    """A gateway that serves what a recording needs and nothing else."""
    return FakeGateway()  # type: ignore[abstract]


@contextmanager
def serving(gateway: FakeGateway) -> Iterator[str]:
    """Address of ``gateway`` while the context lasts."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_AvatarServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
