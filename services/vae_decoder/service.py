"""The VAE decoder from its settings: loads the network, joins the chain, answers for portraits and video."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from live_avatar.config import preset
from live_avatar.model.compiled_vae import compile_vae
from live_avatar.model.device import device_identity, free_bytes, keep_compiled_code, open_device
from live_avatar.model.networks import Networks, open_networks
from live_avatar.model.novelty import TrainingPortraits
from live_avatar.model.vae import VAE
from live_avatar.pipeline.v1 import vae_decoder_service_pb2
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import add_VaeDecoderServiceServicer_to_server
from live_avatar.portrait.face import cascade_file
from live_avatar.portrait.limits import DEFAULT_LIMITS
from live_avatar.services.vae_decoder.encoder_thread import EncoderThread
from live_avatar.services.vae_decoder.servicer import VaeDecoderServicer
from live_avatar.services.vae_decoder.settings import VaeDecoderSettings
from live_avatar.services.vae_decoder.subscribers import SubscriberRegistry
from live_avatar.services.vae_decoder.work import VaeDecoderWork
from live_avatar.serving.decode_pool import PoolRules
from live_avatar.serving.hop_service import as_service, hop_timing, running_hop
from live_avatar.serving.memory_budget import MemoryBudget
from live_avatar.serving.portraits import Portraits
from live_avatar.serving.server import Service
from live_avatar.serving.telemetry import Telemetry
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.picture import latent_size

PORTRAITS = PoolRules(processes=2)
"""A gateway has seen them already."""
_DECODER_SERVICE = vae_decoder_service_pb2.DESCRIPTOR.services_by_name["VaeDecoderService"].full_name


@asynccontextmanager
async def build(settings: VaeDecoderSettings, telemetry: Telemetry) -> AsyncIterator[Service]:
    """The service, loaded and running.

    Raises:
        ValueError: weights or device cannot be used.
    """
    loop = asyncio.get_running_loop()
    with ExitStack() as threads:
        encoder = threads.enter_context(EncoderThread())
        device = threads.enter_context(ThreadPoolExecutor(1, "device"))
        loaded = await loop.run_in_executor(device, _load, settings)
        networks, decoder, memory_budget = loaded.networks, loaded.decoder, loaded.memory_budget
        subscribers = SubscriberRegistry()
        work = VaeDecoderWork(
            networks.preset,
            decoder,
            memory_budget=memory_budget,
            encoder=encoder,
            subscribers=subscribers,
            watermark=settings.watermark,
            label=settings.label,
        )
        info = _info(settings, networks, work.capacity)
        async with (
            Portraits(DEFAULT_LIMITS, "image", PORTRAITS) as portraits,
            running_hop(info, work, device, settings=settings, target=None, observer=telemetry) as hop,
        ):
            servicer = VaeDecoderServicer(
                networks.preset,
                decoder,
                subscribers=subscribers,
                device_thread=device,
                portraits=portraits,
                fail_session=hop.fail,
                training_portraits=loaded.training_portraits,
                timing=hop_timing(settings),
            )
            facts = {"networks": networks.description, "device": info.device, "capacity": work.capacity, "cut": _cut()}
            facts["watermark"] = "none: no key" if settings.watermark.key is None else "on"
            register = partial(add_VaeDecoderServiceServicer_to_server, servicer)
            yield as_service(hop, facts, register, grpc_names=(_DECODER_SERVICE,))


def _cut() -> str:
    """How portraits are cut, for one line of a log."""
    if cascade_file() is None:
        return "about the middle of the portrait, no face is looked for: pip install 'live-avatar[face]'"
    return "about the face"


@dataclass(frozen=True)
class _Loaded:
    """What the service computes with."""

    networks: Networks
    decoder: FrameDecoder
    memory_budget: MemoryBudget
    training_portraits: TrainingPortraits | None


def _load(settings: VaeDecoderSettings) -> _Loaded:
    device = open_device(settings.device, settings.threads)
    networks = open_networks(preset(settings.preset), settings.weights, device, expected_digest=settings.weights_digest)
    vae = networks.load("vae")
    assert isinstance(vae, VAE)
    if settings.forward == "compiled":
        keep_compiled_code(settings.compile_cache)
        vae = compile_vae(vae)
        for width, height in settings.sizes:
            vae.warm_up(*latent_size(networks.preset, width, height))
    decoder = FrameDecoder(vae, networks.preset.stream, use_motion=networks.preset.dit.use_motion)
    memory_budget = MemoryBudget(round(free_bytes(device) * settings.memory_fraction), settings.max_sessions)
    return _Loaded(networks, decoder, memory_budget, networks.training_portraits())


def _info(settings: VaeDecoderSettings, networks: Networks, capacity: int) -> ServiceInfo:
    mark = settings.watermark
    return ServiceInfo(
        role=ServiceInfo.ROLE_VAE_DECODER,
        name=settings.name,
        preset=networks.preset.name,
        model_digest=networks.digest,
        device=device_identity(networks.device),
        session_capacity=capacity,
        watermark_deployment=None if mark.key is None else mark.deployment,
    )
