"""``live-avatar doctor``: what this machine offers, which fast paths are on, and why it may be slow.

Judges the facts of ``machine``; each finding is one line, a WARN with its remedy.  Measures nothing.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from live_avatar.cli import options
from live_avatar.cli.access import Access
from live_avatar.cli.machine import Gpu, Machine, TorchBuild, look
from live_avatar.cli.signals import run
from live_avatar.proxies import proxies

if TYPE_CHECKING:
    from live_avatar.cli.gateway import Gateway

BF16_CAPABILITY = (8, 0)
FP8_CAPABILITY = (8, 9)
BUSY_PERCENT = 20
FOREIGN_MIB = 1024
SLOWING = {
    "CUDA_LAUNCH_BLOCKING": "makes every kernel wait for the one before",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "asks the driver for memory at every step",
    "TORCHDYNAMO_DISABLE": "turns torch.compile off",
    "TORCH_COMPILE_DISABLE": "turns torch.compile off",
}
"""Debugging settings that cost speed."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    ok: bool
    text: str
    remedy: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="The same findings as JSON.")] = False,
    gateway: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Gateway to reach too, with the API key. Default: none.", show_default=False
        ),
    ] = "",
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
) -> None:
    """GPU, driver, torch build, fast paths on or off, and what makes it slow."""
    findings = [*examine(look()), *_reach(gateway, Access(ca, api_key, insecure))]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
        return
    for finding in findings:
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        typer.echo(f"{'OK  ' if finding.ok else 'WARN'}  {finding.topic:12}{finding.text}{remedy}")


def _reach(address: str, access: Access) -> Iterator[Finding]:
    """Whether the gateway that is asked about answers and accepts the credential."""
    if address:
        from live_avatar.cli.gateway import gateway_at

        yield run(_answer(gateway_at(address, access)))


async def _answer(gateway: "Gateway") -> Finding:
    from live_avatar.client import AvatarError

    try:
        async with gateway.connect() as client:
            info = await client.server_info()
    except AvatarError as error:
        remedy = "set LIVE_AVATAR_API_KEY" if error.reason.startswith("CREDENTIAL") else "check address and service"
        return Finding("gateway", False, f"{gateway.address}: {error}", remedy)
    text = f"{gateway.address}: version {info.version}, {info.preset or 'no pipeline'}"
    return Finding("gateway", bool(info.session_capacity), text, "" if info.session_capacity else "start a pipeline")


def examine(machine: Machine) -> Iterator[Finding]:
    """Everything worth saying about ``machine``."""
    yield from _gpus(machine)
    yield _torch(machine)
    if machine.torch is not None:
        if machine.gpus:
            yield _attention(machine.torch)
        yield _compile(machine, machine.torch)
        yield _threads(machine, machine.torch)
    yield _cpu(machine)
    yield _allocator(machine)
    yield from _slowing(machine)
    yield from _proxies(machine)


def _gpus(machine: Machine) -> Iterator[Finding]:
    if not machine.gpus:
        reason = machine.gpu_error or "the driver lists none"
        yield Finding("gpu", False, f"none: {reason}", "TINY runs live on a CPU; S2V_14B needs NVIDIA GPUs")
        return
    for index, gpu in enumerate(machine.gpus):
        memory = f"{gpu.memory_mib / 1024:.0f} GiB"
        yield Finding(f"gpu {index}", True, f"{gpu.name}, {memory}, driver {gpu.driver}, {_precision(gpu)}")
        yield from _gpu_troubles(f"gpu {index}", gpu)


def _precision(gpu: Gpu) -> str:
    bf16 = "yes" if gpu.capability >= BF16_CAPABILITY else "no"
    fp8 = "yes" if gpu.capability >= FP8_CAPABILITY else "no"
    return f"compute {gpu.capability[0]}.{gpu.capability[1]}, bf16 {bf16}, fp8 {fp8}"


def _gpu_troubles(topic: str, gpu: Gpu) -> Iterator[Finding]:
    if gpu.capability < BF16_CAPABILITY:
        yield Finding(topic, False, "no bf16 arithmetic", "use a GPU of compute 8.0 (Ampere) or later")
    if gpu.throttled:
        yield Finding(topic, False, "its clocks are held down by heat or power", "check cooling and power supply")
    if gpu.busy_percent >= BUSY_PERCENT:
        yield Finding(topic, False, f"already {gpu.busy_percent} % busy", "stop the other program, or share knowingly")
    if gpu.used_mib >= FOREIGN_MIB:
        yield Finding(
            topic, False, f"{gpu.used_mib} MiB already taken", "stop the other program, or admit fewer sessions"
        )


def _torch(machine: Machine) -> Finding:
    build = machine.torch
    if build is None:
        return Finding("torch", False, "not installed", "pip install 'live-avatar[serve]'")
    text = f"{build.version}, {f'built for CUDA {build.cuda}' if build.cuda else 'a build without CUDA'}"
    if machine.gpus and not build.cuda:
        return Finding("torch", False, text, f"install torch {build.version.partition('+')[0]} built for CUDA")
    if len(machine.gpus) > build.gpus_seen:
        text = f"{text}; it sees {build.gpus_seen} of {len(machine.gpus)} GPUs"
        return Finding("torch", False, text, "check CUDA_VISIBLE_DEVICES, and that the driver is new enough")
    return Finding("torch", True, text)


def _attention(build: TorchBuild) -> Finding:
    text = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in build.attention.items())
    if build.attention["cudnn"] or build.attention["flash"]:
        return Finding("attention", True, text)
    return Finding("attention", False, text, "turn on torch.backends.cuda.enable_cudnn_sdp or enable_flash_sdp")


def _compile(machine: Machine, build: TorchBuild) -> Finding:
    if build.gpus_seen and not build.triton:
        return Finding("compile", False, "torch.compile has no triton for the GPU", "pip install triton")
    if machine.compiler is None:
        return Finding("compile", False, "torch.compile finds no C++ compiler", "install g++")
    return Finding("compile", True, f"torch.compile can build kernels ({machine.compiler})")


def _threads(machine: Machine, build: TorchBuild) -> Finding:
    asked = machine.environment.get("OMP_NUM_THREADS", "unset")
    text = f"{build.threads} threads on {machine.cores:g} usable cores (OMP_NUM_THREADS {asked})"
    if build.threads > machine.cores:
        return Finding("threads", False, text, f"set OMP_NUM_THREADS={max(1, int(machine.cores))}")
    return Finding("threads", True, text)


def _cpu(machine: Machine) -> Finding:
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    flags = ", ".join(f"{flag} {'yes' if flag in machine.cpu_flags else 'no'}" for flag in wanted)
    kernels = f"; torch uses {machine.torch.cpu_capability}" if machine.torch else ""
    text = f"{machine.cpu}: {flags}{kernels}"
    if machine.gpus or not machine.cpu_flags or machine.cpu_flags & {"avx512_bf16", "amx_bf16"}:
        return Finding("cpu", True, text)
    return Finding("cpu", False, text, "bfloat16 is emulated here: run in float32 on this CPU")


def _allocator(machine: Machine) -> Finding:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "LD_PRELOAD", "MALLOC_ARENA_MAX")
    present = [f"{name}={machine.environment[name]}" for name in names if name in machine.environment]
    return Finding("allocator", True, ", ".join(present) or "default settings")


def _proxies(machine: Machine) -> Iterator[Finding]:
    """Calls to this machine go by themselves; of any other gateway the operator must say so."""
    for proxy in proxies(machine.environment):
        text = f"{proxy} is set: calls to gateways on other machines may go through it"
        yield Finding("proxy", False, text, "no_proxy=HOST,... for each gateway that is reached without it")


def _slowing(machine: Machine) -> Iterator[Finding]:
    for name, effect in SLOWING.items():
        value = machine.environment.get(name, "0")
        if value not in ("", "0"):
            yield Finding("environment", False, f"{name}={value} {effect}", f"unset {name}")
