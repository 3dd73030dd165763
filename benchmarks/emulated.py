"""One service of a pipeline that waits instead of computing: ``python -m benchmarks.emulated --help``.

The process is the real one in everything else: settings, life cycle, hop, link, telemetry and the line in which it
says where it listens.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, TextIO

import torch
from pydantic import Field

from benchmarks.emulated_work import SESSIONS, EmulatedDecoder, EmulatedEncoder, EmulatedEnd, EmulatedStage, first_sink
from live_avatar.config import Preset, preset
from live_avatar.model.vae import VAE
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo, SessionKey
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import EncodePortraitRequest, EncodePortraitResponse
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import add_VaeDecoderServiceServicer_to_server
from live_avatar.portrait.limits import DEFAULT_LIMITS
from live_avatar.services.denoise_stage.settings import parse_steps
from live_avatar.services.vae_decoder.servicer import PortraitContext, VaeDecoderServicer
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry
from live_avatar.serving.hop_service import Register, as_service, hop_timing, running_hop
from live_avatar.serving.observer import BlockReport, NoObserver, Observer
from live_avatar.serving.parts import cut
from live_avatar.serving.pipeline_settings import PipelineSettings
from live_avatar.serving.portraits import Portraits
from live_avatar.serving.server import Service, run
from live_avatar.serving.settings import ClientTlsSettings, load
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.tls import ClientTls
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.v1.avatar_service_pb2 import BlockTiming

Role = Literal["encoder", "stage", "decoder", "end"]
_ROLES = {
    "encoder": ServiceInfo.ROLE_AUDIO_ENCODER,
    "stage": ServiceInfo.ROLE_DENOISE_STAGE,
    "decoder": ServiceInfo.ROLE_VAE_DECODER,
    "end": ServiceInfo.ROLE_VAE_DECODER,
}
_WORKS: Mapping[str, type[EmulatedEncoder | EmulatedStage | EmulatedEnd]] = {
    "encoder": EmulatedEncoder,
    "stage": EmulatedStage,
    "end": EmulatedEnd,
}
_DIGEST = "emulated"


class EmulatedSettings(PipelineSettings):
    """A service that waits for a chosen time on every block."""

    role: Role = Field(description="encoder, stage, decoder, or end: takes blocks and drops them")
    wait_ms: float = Field(default=0.0, ge=0, description="what one block takes, in milliseconds")
    next: str | None = Field(default=None, description="address of the next service, as host:port; a decoder has none")
    tls: ClientTlsSettings = ClientTlsSettings()
    steps: str = Field(default="0", description="steps of a stage, counted from 0: 2, or 0-3, or 0,1")
    step_count: int = Field(default=4, ge=1, description="steps of the whole schedule")
    trace: Path | None = Field(default=None, description="file that gets a line of JSON per block")

    @property
    def service_name(self) -> str:
        """As the real service would call itself."""
        if self.role == "stage":
            return f"denoise-stage-{parse_steps(self.steps).start}"
        return {"encoder": "audio-encoder", "decoder": "vae-decoder", "end": "end"}[self.role]


class EmulatedDecoderServicer(VaeDecoderServicer):
    """Carries video as the real one does; a portrait becomes a sink of zeros of the right size."""

    def __init__(
        self, system: Preset, settings: EmulatedSettings, subscribers: SubscriberRegistry, device: ThreadPoolExecutor
    ):
        self._system = system
        with torch.device("meta"):  # it decodes nothing and needs no memory
            vae = VAE(system.vae)
        super().__init__(
            system,
            FrameDecoder(vae, system.stream, use_motion=system.dit.use_motion),
            subscribers=subscribers,
            device_thread=device,
            portraits=Portraits(DEFAULT_LIMITS, "image"),  # never asked
            fail_session=lambda key, error: None,
            timing=hop_timing(settings),
        )

    async def EncodePortrait(
        self, request: EncodePortraitRequest, context: PortraitContext
    ) -> AsyncIterator[EncodePortraitResponse]:
        """Sends a sink of the right size, whatever the portrait."""
        pieces = cut(first_sink(self._system, request.width, request.height))
        for part, piece in enumerate(pieces):
            yield EncodePortraitResponse(part=part, part_count=len(pieces), data=piece)


class Tracer(NoObserver):
    """Passes events on, and writes a line per block: when it came, when work on it began and ended, when it left."""

    def __init__(self, file: TextIO, observer: Observer) -> None:
        self._file = file
        self._observer = observer

    def block_started(self, service: str, key: SessionKey, index: int) -> None:
        """See ``Observer``."""
        self._observer.block_started(service, key, index)

    def block_finished(self, report: BlockReport) -> None:
        """See ``Observer``."""
        self._observer.block_finished(report)
        self._file.write(json.dumps(trace_line(report)) + "\n")
        self._file.flush()


def trace_line(report: BlockReport) -> dict[str, str | int]:
    """A report as plain data; all times in nanoseconds since 1970."""
    started_ns = report.arrived_at_ns + _ns(report.timing, "queue_time")
    return {
        "service": report.service,
        "session": report.key.session_id,
        "block": report.index,
        "arrived_ns": report.arrived_at_ns,
        "started_ns": started_ns,
        "ended_ns": started_ns + _ns(report.timing, "compute_time"),
        "sent_ns": report.sent_at_ns,
        "hop_ns": _ns(report.timing, "hop_time"),
    }


@contextmanager
def _observed(settings: EmulatedSettings, telemetry: Observer) -> Iterator[Observer]:
    if settings.trace is None:
        yield telemetry
        return
    with settings.trace.open("w") as file:
        yield Tracer(file, telemetry)


@asynccontextmanager
async def build(settings: EmulatedSettings, telemetry: Telemetry) -> AsyncIterator[Service]:
    """The service, running; raises ValueError where its settings do not fit its role."""
    if (settings.next is None) != (settings.role in ("decoder", "end")):
        raise ValueError(f"a {settings.role} {'needs' if settings.next is None else 'has no'} --next")
    system = preset(settings.preset)
    await asyncio.to_thread(torch.set_num_threads, settings.threads)
    info = ServiceInfo(
        role=_ROLES[settings.role],
        name=settings.service_name,
        preset=settings.preset,
        model_digest=_DIGEST,
        device=f"emulated:{os.getpid()}",
        session_capacity=SESSIONS,
    )
    if settings.role == "stage":
        info.steps.extend(parse_steps(settings.steps))
        info.step_count = settings.step_count
    wait_s, more = settings.wait_ms / 1000, list[Register]()
    with ThreadPoolExecutor(1, "device") as device, _observed(settings, telemetry) as observer:
        work: EmulatedDecoder | EmulatedEncoder | EmulatedStage | EmulatedEnd
        if settings.role == "decoder":
            subscribers = SubscriberRegistry()
            work = EmulatedDecoder(system, wait_s, subscribers)
            servicer = EmulatedDecoderServicer(system, settings, subscribers, device)
            more.append(partial(add_VaeDecoderServiceServicer_to_server, servicer))
        else:
            work = _WORKS[settings.role](system, wait_s)
        tls = ClientTls.of(settings.tls, telemetry)
        async with running_hop(
            info, work, device, settings=settings, target=settings.next, observer=observer, tls=tls
        ) as hop:
            yield as_service(hop, {"emulates": settings.role, "wait_ms": settings.wait_ms}, *more)


def _ns(timing: BlockTiming, field: str) -> int:
    nanoseconds: int = getattr(timing, field).ToNanoseconds()
    return nanoseconds


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    settings = load(EmulatedSettings, program="python -m benchmarks.emulated")
    return run(settings.service_name, settings.server, settings.telemetry, partial(build, settings))


if __name__ == "__main__":
    sys.exit(main())
