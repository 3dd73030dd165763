"""What a stage's service adds to its step: the real hop and the real work, from a block's sending to its leaving."""

import asyncio
import statistics
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import torch

from benchmarks.gpu_parts import draw_network
from benchmarks.gpu_sections import Numbers, Place
from benchmarks.hop import Answers
from live_avatar import wire
from live_avatar.config import MOTION_LATENTS
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.compiled_step import CompiledStep
from live_avatar.model.cuda_graph_step import fastest_step
from live_avatar.model.dit import CausalDiT
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo, SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2_grpc import add_PipelineServiceServicer_to_server
from live_avatar.services.denoise_stage.loading import warm_window
from live_avatar.services.denoise_stage.work import DenoiseStageWork
from live_avatar.serving.hop import HopServer
from live_avatar.serving.link import Link
from live_avatar.serving.memory_budget import MemoryBudget
from live_avatar.serving.observer import BlockReport, NoObserver
from live_avatar.serving.parts import conditioning_parts
from live_avatar.serving.server import SERVER_OPTIONS
from live_avatar.serving.work import Completion
from live_avatar.streaming.block import Block, Conditioning, Sink
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.picture import latent_size
from live_avatar.streaming.rng import PhiloxRng
from live_avatar.streaming.schedule import inference_schedule
from live_avatar.v1.avatar_service_pb2 import BlockTiming

_KEY = SessionKey(session_id="bench", epoch=1)
_WARM = 8
_READY_S = 30.0
_SESSION_BYTES = 2**40


class _Computed(NoObserver):
    """Keeps the time that each block spent in the device's thread."""

    def __init__(self) -> None:
        self.compute_ms: list[float] = []

    def block_finished(self, report: BlockReport) -> None:
        """See ``Observer``."""
        self.compute_ms.append(report.timing.compute_time.ToNanoseconds() / 1e6)


def service(place: Place, before: Mapping[str, float]) -> Numbers:
    """From a block's sending over gRPC to its acknowledgement, less the time its step takes in the device's thread."""
    with torch.no_grad():  # not inference mode: windows of sessions are made outside it, and code is made for such
        denoiser = _stage(place)
    return asyncio.run(_measure(place, denoiser))


def _stage(place: Place) -> Denoiser:
    model = draw_network(place.preset, "dit", place.device)
    assert isinstance(model, CausalDiT)
    step = CompiledStep(model)
    step.warm_up([warm_window(place.preset, place.sizes[0], place.dtype, place.device)])
    rng = PhiloxRng(place.preset.stream.reference_distance)
    return Denoiser(model, place.preset.stream, inference_schedule(4), range(1, 2), rng, forward=fastest_step(step))


async def _measure(place: Place, denoiser: Denoiser) -> Numbers:
    observer, answers = _Computed(), Answers()
    memory_budget = MemoryBudget(_SESSION_BYTES, 0)
    info = ServiceInfo(role=ServiceInfo.ROLE_DENOISE_STAGE, name="stage")
    with ThreadPoolExecutor(1, "device") as device:
        work = _LastStage(place.preset, denoiser, memory_budget=memory_budget)
        hop = HopServer(info, work, None, device, observer=observer)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        add_PipelineServiceServicer_to_server(hop, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        link = Link(f"127.0.0.1:{port}", peer="bench")
        running = [asyncio.create_task(hop.run()), asyncio.create_task(link.run(answers))]
        try:
            trips_ms = await _blocks(place, link, answers)
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            await server.stop(None)
    compute_ms = statistics.median(observer.compute_ms[_WARM:])
    overhead_ms = statistics.median(trips_ms[_WARM:]) - compute_ms
    return {"service_overhead_ms": overhead_ms, "service_overhead_share": overhead_ms / compute_ms}


class _LastStage(DenoiseStageWork):
    """The real work at the end of a chain: what it would pass on is written out, and goes nowhere."""

    def condition(self, part: StreamBlocksRequest.ConditioningPart) -> Iterable[StreamBlocksRequest]:
        """See ``DenoiseStageWork``; nothing follows."""
        super().condition(part)
        return ()

    def block(self, block: StreamBlocksRequest.Block) -> Completion:  # type: ignore[override]  # the end delivers
        """See ``DenoiseStageWork``."""
        [request] = super().block(block)

        async def write_out(timing: BlockTiming) -> None:
            request.SerializeToString()

        return write_out


async def _blocks(place: Place, link: Link, answers: Answers) -> list[float]:
    """Milliseconds from each block's sending to its acknowledgement, one at a time."""
    (width, height), preset = place.sizes[0], place.preset
    await link.wait_ready(_READY_S)
    await link.send(StreamBlocksRequest(open=StreamBlocksRequest.Open(key=_KEY, width=width, height=height)))
    await answers.next("opened")
    channels, latents = preset.dit.latent_channels, preset.stream.latents_per_block
    size = latent_size(preset, width, height)
    motion = torch.zeros(channels, MOTION_LATENTS, *size, dtype=place.dtype) if preset.dit.use_motion else None
    sink = Sink(version=0, reference=torch.zeros(channels, 1, *size, dtype=place.dtype), motion=motion)
    text = torch.zeros(1, preset.dit.text_dim, dtype=place.dtype)
    body = wire.conditioning_to_body(Conditioning(from_block=0, sink=sink, text=text))
    for part in conditioning_parts(_KEY, 0, body.SerializeToString()):
        await link.send(part)
    audio = AudioTokens(
        torch.zeros(1, 1, latents, preset.dit.audio_tokens + 1, preset.dit.dim, dtype=place.dtype),
        torch.zeros(1, 1, latents, preset.dit.dim, dtype=place.dtype),
    )
    trips_ms = []
    for index in range(_WARM + place.runs):
        block = Block(index=index, audio=audio, latent=torch.zeros(channels, latents, *size, dtype=place.dtype))
        request = StreamBlocksRequest(block=wire.block_to_message(block, _KEY))
        began = time.monotonic()
        await link.send(request)
        trips_ms.append(1000 * (await answers.next("ack") - began))
    return trips_ms
