"""A denoising stage from its settings: loads the network, joins the chain."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from live_avatar.config import preset
from live_avatar.model.device import device_identity, free_bytes, keep_compiled_code, open_device
from live_avatar.model.networks import Networks, open_networks
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.services.denoise_stage.loading import Speed, load_denoiser
from live_avatar.services.denoise_stage.quantization_check import check_report
from live_avatar.services.denoise_stage.settings import DenoiseStageSettings
from live_avatar.services.denoise_stage.work import DenoiseStageWork
from live_avatar.serving.hop_service import as_service, running_hop
from live_avatar.serving.memory_budget import MemoryBudget
from live_avatar.serving.server import Service
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.tls import ClientTls


@asynccontextmanager
async def build(settings: DenoiseStageSettings, telemetry: Telemetry) -> AsyncIterator[Service]:
    """The service, loaded and running.

    Raises:
        ValueError: certificates, weights, device, schedule or replay cannot be used.
    """
    loop = asyncio.get_running_loop()
    tls = ClientTls.of(settings.tls, telemetry)
    with ThreadPoolExecutor(1, "device") as device:
        networks, work = await loop.run_in_executor(device, _load, settings)
        info = ServiceInfo(
            role=ServiceInfo.ROLE_DENOISE_STAGE,
            name=settings.service_name,
            preset=networks.preset.name,
            model_digest=networks.digest,
            device=device_identity(networks.device),
            steps=settings.step_range,
            step_count=settings.step_count,
            session_capacity=work.capacity,
        )
        async with running_hop(
            info, work, device, settings=settings, target=settings.next, observer=telemetry, tls=tls
        ) as hop:
            steps = f"{settings.steps} of {settings.step_count}"
            loaded = {"networks": networks.description, "steps": steps, "device": info.device}
            yield as_service(hop, {**loaded, "capacity": work.capacity})


def _load(settings: DenoiseStageSettings) -> tuple[Networks, DenoiseStageWork]:
    device = open_device(settings.device, settings.threads)
    networks = open_networks(preset(settings.preset), settings.weights, device, expected_digest=settings.weights_digest)
    if settings.linear == "fp8":
        check_report(settings.fp8_report, networks.digest)
    keep_compiled_code(settings.compile_cache)
    denoiser = load_denoiser(
        networks,
        settings.step_range,
        settings.step_count,
        join_last_step=settings.join_last_step,
        replay=settings.replay,
        speed=Speed(
            compiled_sizes=settings.sizes if settings.forward == "compiled" else (),
            fp8=settings.linear == "fp8",
            fp8_kv=settings.kv == "fp8",
        ),
    )
    memory_budget = MemoryBudget(round(free_bytes(device) * settings.memory_fraction), settings.max_sessions)
    return networks, DenoiseStageWork(networks.preset, denoiser, memory_budget=memory_budget)
