"""Whether the services of a chain are one pipeline.

Knows what services say of themselves; nothing of streams.
"""

from collections.abc import Mapping, Sequence

from live_avatar.config import PRESETS, Preset
from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.serving.chain import shared_devices
from live_avatar.serving.timing import SERVED_VERSIONS


def check_layout(
    services: Sequence[ServiceInfo], *, allow_shared_devices: bool, presets: Mapping[str, Preset] = PRESETS
) -> None:
    """Passes a chain of one audio encoder, stages that perform every step once and in order, and one VAE decoder.

    Args:
        services: the chain, in order.
        allow_shared_devices: several of them may use one device.
        presets: systems it may run, by name.

    Raises:
        ValueError: it is anything else; the message names the service at fault.
    """
    _check_roles(services)
    _check_equal(services, presets)
    _check_steps([service for service in services if service.role == ServiceInfo.ROLE_DENOISE_STAGE])
    if not allow_shared_devices and (fault := shared_devices(services)):
        raise ValueError(fault)


def capacity(services: Sequence[ServiceInfo]) -> int:
    """Sessions that all services of a chain have room for at the same time."""
    return min((service.session_capacity for service in services), default=0)


def describe(services: Sequence[ServiceInfo]) -> str:
    """A chain in one line, for people."""
    parts = []
    for service in services:
        steps = f"[{','.join(map(str, service.steps))}]" if service.steps else ""
        parts.append(f"{service.name}{steps}")
    return " -> ".join(parts)


def _check_roles(services: Sequence[ServiceInfo]) -> None:
    roles = [service.role for service in services]
    stages = max(0, len(services) - 2)
    wanted = [
        ServiceInfo.ROLE_AUDIO_ENCODER,
        *[ServiceInfo.ROLE_DENOISE_STAGE] * stages,
        ServiceInfo.ROLE_VAE_DECODER,
    ]
    if not stages or roles != wanted:
        names = ", ".join(f"{service.name} ({ServiceInfo.Role.Name(service.role)})" for service in services)
        raise ValueError(f"a pipeline is an audio encoder, stages and a VAE decoder, not: {names or 'nothing'}")


def _check_equal(services: Sequence[ServiceInfo], presets: Mapping[str, Preset]) -> None:
    head = services[0]
    if head.preset not in presets:
        raise ValueError(f"unknown preset {head.preset!r}; there are {', '.join(presets)}")
    for service in services:
        if service.protocol_version not in SERVED_VERSIONS:
            served = " or ".join(map(str, SERVED_VERSIONS))
            raise ValueError(f"{service.name} speaks protocol {service.protocol_version}, not {served}")
        if service.preset != head.preset:
            raise ValueError(f"{service.name} runs preset {service.preset}, {head.name} runs {head.preset}")
        if service.model_digest != head.model_digest:
            raise ValueError(f"{service.name} and {head.name} have loaded different weights")


def _check_steps(stages: Sequence[ServiceInfo]) -> None:
    counts = {stage.step_count for stage in stages}
    steps = [step for stage in stages for step in stage.steps]
    if len(counts) != 1 or steps != list(range(counts.copy().pop())):
        found = ", ".join(f"{stage.name} {list(stage.steps)} of {stage.step_count}" for stage in stages)
        raise ValueError(f"every denoising step must be performed once and in order, but there are: {found}")
