"""One pipeline as the gateway sees it: blocks go in at its head, video comes out of its decoder.

Routes what comes back to the session it belongs to, and ends all sessions where either link is lost.  Knows keys and
messages; not what sessions do with them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from live_avatar.config import PRESETS, Preset
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo, SessionKey, StreamBlocksRequest, StreamBlocksResponse
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitRequest, StreamVideoResponse
from live_avatar.services.gateway.pipelines.deadline_queue import DeadlineQueue
from live_avatar.services.gateway.pipelines.layout import capacity, check_layout, describe
from live_avatar.services.gateway.pipelines.load import Load
from live_avatar.services.gateway.pipelines.video_link import EncodedPortrait, Name, VideoLink
from live_avatar.serving.errors import ServiceError, busy, from_session_failed, stage_lost
from live_avatar.serving.keys import key_name
from live_avatar.serving.link import Link
from live_avatar.serving.observer import Observer
from live_avatar.serving.streams.mailbox import always
from live_avatar.serving.timing import PRIMING_VERSION, HopTiming
from live_avatar.serving.tls import ClientTls

SERVICE = "gateway"


class Listener(Protocol):
    """A session, as its pipeline sees it.  Called in the event loop; must neither wait nor raise."""

    def lose(self, error: ServiceError) -> None:
        """The pipeline has ended the session and freed it."""

    def receive_video(self, video: StreamVideoResponse.Video) -> None:
        """Pictures of a block."""

    def receive_sink(self, data: bytes) -> None:
        """The model's own first latent, as a serialized Sink."""

    def receive_finished(self, piece: StreamVideoResponse.FinishedBlock) -> None:
        """A piece of a finished block."""


class Pipeline:
    """A chain of services, reached at its head and at its decoder.

    Args:
        head: address of the audio encoder; also the pipeline's name.
        decoder: address of the VAE decoder.
        timing: waits of both links.
        allow_shared_devices: services may sit on one device.
        observer: receives events of the links.
        presets: systems it may run, by name.
        tls: of both links; None: plain text.
    """

    def __init__(
        self,
        head: str,
        decoder: str,
        *,
        timing: HopTiming,
        allow_shared_devices: bool,
        observer: Observer,
        presets: Mapping[str, Preset] = PRESETS,
        tls: ClientTls | None = None,
    ) -> None:
        self.name = head
        self._timing = timing
        self._allow_shared_devices = allow_shared_devices
        self._presets = presets
        self._link = Link(head, peer=SERVICE, timing=timing, observer=observer, tls=tls)
        self._video = VideoLink(decoder, timing, tls)
        self._listeners: dict[Name, Listener] = {}
        self._opening: dict[Name, asyncio.Future[int]] = {}
        self._slots = DeadlineQueue(lambda: self._link.credits > 0 or not self._link.up)
        self._load = Load()
        self._fault = "not connected"
        self._log = structlog.get_logger(__name__).bind(pipeline=head)

    async def run(self) -> None:
        """Keeps both links up until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.run(self))
            tasks.create_task(self._video.run(self))

    @property
    def ready(self) -> bool:
        """Takes sessions."""
        return self._link.ready and not self._fault

    @property
    def draining(self) -> bool:
        """One of its services waits for its sessions to leave, and ends then."""
        return self._link.draining

    @property
    def primes(self) -> bool:
        """Sessions can go on here from finished blocks, and from here elsewhere."""
        return bool(self.services) and all(one.protocol_version >= PRIMING_VERSION for one in self.services)

    @property
    def in_use(self) -> bool:
        """Holds sessions, or is about to."""
        return bool(self._listeners)

    @property
    def services(self) -> Sequence[ServiceInfo]:
        """The chain, as of the last time it became ready."""
        return self._link.services

    @property
    def preset(self) -> Preset:
        """The system it runs; raises ServiceError STAGE_LOST while it is not ready."""
        self._require_ready()
        return self._presets[self.services[0].preset]

    @property
    def capacity(self) -> int:
        """Sessions it has room for; 0 while it is not ready."""
        return capacity(self.services) if self.ready else 0

    @property
    def live_capacity(self) -> int:
        """Sessions it has room for and keeps up with in live delivery, as far as that is measured."""
        if not self.ready:
            return 0
        measured = self._load.live_sessions(self.services, self.preset)
        return self.capacity if measured is None else min(self.capacity, measured)

    @property
    def model_digest(self) -> str:
        """What its services have loaded; empty while that is unknown."""
        return self.services[0].model_digest if self.services else ""

    @property
    def watermark_deployment(self) -> int | None:
        """Deployment that the mark in its frames names; None: frames are not marked."""
        named = (one.watermark_deployment for one in self.services if one.HasField("watermark_deployment"))
        return next(named, None)

    def __str__(self) -> str:
        state = "ready" if self.ready else f"not ready: {self._fault or 'a service is missing'}"
        return f"{self.name}: {describe(self.services) or 'unknown'} ({state})"

    async def open(
        self, request: StreamBlocksRequest.Open, listener: Listener, *, finished_blocks: bool = False
    ) -> int:
        """Reserves a session on all services and its video; returns the bytes reserved.

        Args:
            request: what is reserved.
            listener: the session.
            finished_blocks: it receives the finished blocks too.

        Raises:
            ServiceError: a service refused, was lost (STAGE_LOST), or lives and did not answer in time
                (CAPACITY_EXHAUSTED); nothing is held then.
        """
        self._require_ready()
        name = key_name(request.key)
        opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._opening[name] = opened
        self._listeners[name] = listener
        try:
            async with asyncio.timeout(self._timing.connect_s):
                await self._link.send(StreamBlocksRequest(open=request))
                reserved = await opened
                await self._video.subscribe(request.key, finished_blocks=finished_blocks)
        except TimeoutError:
            self.close(request.key)
            # A service that is lost would have ended the wait: it is silent for half as long.
            raise busy(f"no answer within {self._timing.connect_s} s: the pipeline is busy with other work") from None
        except BaseException:
            self.close(request.key)
            raise
        finally:
            self._opening.pop(name, None)
        return reserved

    async def encode_portrait(self, request: EncodePortraitRequest, timeout_s: float) -> EncodedPortrait:
        """Sink version 0 of a portrait, and how like the training portraits it is; raises ServiceError."""
        return await self._video.encode_portrait(request, timeout_s)

    async def send(self, request: StreamBlocksRequest, still_needed: Callable[[], bool] = always) -> bool:
        """Sends a message down from the head; see ``Link.send``."""
        return await self._link.send(request, still_needed)

    def slot(self, due_ns: int) -> AbstractAsyncContextManager[None]:
        """The slot of a block that is due at ``due_ns`` of the monotonic clock; the body sends it."""
        return self._slots.slot(due_ns)

    def close(self, key: SessionKey) -> None:
        """Frees a session on all services.  Idempotent; returns at once."""
        if self._listeners.pop(key_name(key), None) is not None:
            self._link.post(StreamBlocksRequest(close=StreamBlocksRequest.Close(key=key)))

    def respond(self, response: StreamBlocksResponse) -> None:
        """See ``LinkHandler``."""
        match response.WhichOneof("payload"):
            case "opened":
                opening = self._opening.get(key_name(response.opened.key))
                if opening is not None and not opening.done():
                    opening.set_result(sum(part.bytes for part in response.opened.reservations))
            case "ack":
                self._slots.notify()
            case "session_failed":
                self._fail(key_name(response.session_failed.key), from_session_failed(response.session_failed))

    def link_ready(self, ready: bool) -> None:
        """See ``LinkHandler``."""
        self._check()

    def link_down(self, error: ServiceError) -> None:
        """See ``LinkHandler``."""
        self._check()
        self._slots.notify()
        for name in tuple(self._listeners):
            self._fail(name, error)

    def receive(self, response: StreamVideoResponse) -> None:
        """See ``VideoHandler``."""
        match response.WhichOneof("payload"):
            case "video":
                if response.video.last:
                    self._load.note(response.video.timings)
                if listener := self._listeners.get(key_name(response.video.key)):
                    listener.receive_video(response.video)
            case "new_sink":
                if listener := self._listeners.get(key_name(response.new_sink.key)):
                    listener.receive_sink(response.new_sink.data)
            case "finished_block":
                if listener := self._listeners.get(key_name(response.finished_block.key)):
                    listener.receive_finished(response.finished_block)

    def video_up(self) -> None:
        """See ``VideoHandler``."""
        self._check()

    def video_down(self, error: ServiceError) -> None:
        """See ``VideoHandler``."""
        self._check()
        for session_id, epoch in tuple(self._listeners):
            key = SessionKey(session_id=session_id, epoch=epoch)
            self._link.post(StreamBlocksRequest(close=StreamBlocksRequest.Close(key=key)))
            self._fail((session_id, epoch), error)

    def _fail(self, name: Name, error: ServiceError) -> None:
        listener = self._listeners.pop(name, None)
        opening = self._opening.get(name)
        if opening is not None and not opening.done():
            opening.set_exception(error)
        elif listener is not None:
            listener.lose(error)

    def _require_ready(self) -> None:
        if not self.ready:
            raise stage_lost("the pipeline is not ready", self.name)

    def _check(self) -> None:
        """Finds out what keeps the pipeline from being used, and says so when it changes."""
        before, self._fault = self._fault, self._find_fault()
        if self._fault and self._fault != before:
            self._log.warning("pipeline not usable", reason=self._fault)
        elif before and not self._fault:
            self._log.info("pipeline ready", services=describe(self.services))

    def _find_fault(self) -> str:
        if not self._link.ready:
            return "a service is draining" if self._link.draining else "a service is missing"
        if self._video.service is None:
            return "no video from the decoder"
        try:
            check_layout(self.services, allow_shared_devices=self._allow_shared_devices, presets=self._presets)
        except ValueError as error:
            return str(error)
        last, met = self.services[-1], self._video.service
        if (met.name, met.device) != (last.name, last.device):
            return f"video comes from {met.name} on {met.device}, but the chain ends with {last.name} on {last.device}"
        return ""
