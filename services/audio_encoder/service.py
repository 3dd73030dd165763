"""The audio encoder from its settings: loads the networks, joins the chain."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

from transformers import PreTrainedModel, Wav2Vec2Model

from live_avatar.config import preset
from live_avatar.model.audio_tokens import AudioTokenEncoder
from live_avatar.model.device import device_identity, free_bytes, open_device
from live_avatar.model.networks import Networks, open_networks
from live_avatar.model.text import TextEncoder
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.services.audio_encoder.readiness import HeadReadiness
from live_avatar.services.audio_encoder.settings import AudioEncoderSettings
from live_avatar.services.audio_encoder.work import AudioEncoderWork
from live_avatar.serving.hop_service import as_service, running_hop
from live_avatar.serving.memory_budget import MemoryBudget
from live_avatar.serving.server import Service
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.tls import ClientTls


@asynccontextmanager
async def build(settings: AudioEncoderSettings, telemetry: Telemetry) -> AsyncIterator[Service]:
    """The service, loaded and running.

    Raises:
        ValueError: certificates, weights or device cannot be used.
    """
    loop = asyncio.get_running_loop()
    tls = ClientTls.of(settings.tls, telemetry)
    with ThreadPoolExecutor(1, "device") as device:
        networks, work = await loop.run_in_executor(device, _load, settings)
        info = ServiceInfo(
            role=ServiceInfo.ROLE_AUDIO_ENCODER,
            name=settings.name,
            preset=networks.preset.name,
            model_digest=networks.digest,
            device=device_identity(networks.device),
            session_capacity=work.capacity,
        )
        async with running_hop(
            info, work, device, settings=settings, target=settings.next, observer=telemetry, tls=tls
        ) as hop:
            loaded = {"networks": networks.description, "device": info.device, "capacity": work.capacity}
            ready = HeadReadiness(hop, allow_shared_devices=settings.allow_shared_devices)
            yield replace(as_service(hop, loaded), ready=ready)


def _load(settings: AudioEncoderSettings) -> tuple[Networks, AudioEncoderWork]:
    device = open_device(settings.device, settings.threads)
    networks = open_networks(preset(settings.preset), settings.weights, device, expected_digest=settings.weights_digest)
    speech, tokens, text = (networks.load(name) for name in ("speech", "audio", "text"))
    assert isinstance(speech, Wav2Vec2Model)
    assert isinstance(tokens, AudioTokenEncoder)
    assert isinstance(text, PreTrainedModel)
    prompts = TextEncoder(text, networks.tokenizer(), networks.preset.dit.text_len)
    memory_budget = MemoryBudget(round(free_bytes(device) * settings.memory_fraction), settings.max_sessions)
    longest = settings.max_whole_file_seconds
    return networks, AudioEncoderWork(
        networks.preset, speech, tokens, prompts, memory_budget=memory_budget, max_whole_file_s=longest
    )
