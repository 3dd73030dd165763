"""The measurements of ``benchmarks.gpu``; a section takes a ``Place`` and earlier results, and returns numbers.

Absolute numbers belong to the device in the result.  A key that ends in ``_share`` or ``_of_ceiling`` is a ratio.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.flops import geometry, step_work
from benchmarks.gpu_parts import (
    TERA,
    draw_network,
    free,
    kernels_ms,
    median_ms,
    new_window,
    random_like,
    wait_for_device,
    wall_ms,
    watched,
)
from live_avatar.config import Preset
from live_avatar.model import fp8
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.compiled_step import CompiledStep, EagerStep, StepForward, warm_block
from live_avatar.model.compiled_vae import compile_vae
from live_avatar.model.cuda_graph_step import fastest_step
from live_avatar.model.dit import CausalDiT, NoisyInput, TextKV
from live_avatar.model.kv_cache import KVWindow
from live_avatar.model.vae import VAE, DecoderCache

Numbers = dict[str, float]
Size = tuple[int, int]
"""Width and height in pixels."""
PEAK_BF16_TFLOPS = {"H200": 989.0, "H100": 989.0, "H800": 989.0, "B200": 2250.0, "A100": 312.0}
"""Of the data sheets, dense."""
PLAYBACK_FPS = 25
STEPS = 4
_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_RESERVE_BYTES = 2e9


@dataclass(frozen=True)
class Place:
    """What is measured, and where."""

    preset: Preset
    sizes: tuple[Size, ...]
    """The first is the one that ratios between parts are given for."""
    device: torch.device
    runs: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser."""
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.preset.dtype]

    @property
    def has_fp8_units(self) -> bool:
        """Whether the device multiplies 8-bit floats."""
        return self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) >= (8, 9)


def label(size: Size) -> str:
    """Of a size in keys."""
    return f"{size[0]}x{size[1]}"


@torch.inference_mode()
def ceilings(place: Place, before: Mapping[str, float]) -> Numbers:
    """How fast this device multiplies and attends at the shapes of a step, with nothing around it."""
    numbers: Numbers = {}
    for size in place.sizes:
        work, name = step_work(place.preset, geometry(place.preset, *size)), label(size)
        ideal_ms = {"bf16": 0.0, "fp8": 0.0}
        for product in work.products:
            x = random_like(place.device, place.dtype, product.rows, product.inner)
            weight = random_like(place.device, place.dtype, product.columns, product.inner)
            one = median_ms(functools.partial(torch.nn.functional.linear, x, weight), place.device, place.runs)
            ideal_ms["bf16"] += one * product.count
            operands = (*fp8.rounded(x), *fp8.rounded(weight))
            if place.has_fp8_units:
                one = median_ms(functools.partial(fp8.multiplied, *operands), place.device, place.runs)
            ideal_ms["fp8"] += one * product.count
        for kind, milliseconds in ideal_ms.items():
            numbers[f"gemm_{kind}_tflops_{name}"] = work.product_flops / TERA / (milliseconds / 1000)
        numbers |= _attention(place, work.queries, work.keys, name)
    if not place.has_fp8_units:
        return {key: value for key, value in numbers.items() if not key.startswith("gemm_fp8")}
    return numbers


def _attention(place: Place, queries: int, keys: int, name: str) -> Numbers:
    config = place.preset.dit
    shape = (1, config.num_heads, queries, config.head_dim), (1, config.num_heads, keys, config.head_dim)
    q, k, v = (random_like(place.device, place.dtype, *one) for one in (shape[0], shape[1], shape[1]))
    flops = 4.0 * queries * keys * config.dim
    found: Numbers = {}
    for backend, kind in _BACKENDS.items():
        try:
            with sdpa_kernel(kind):
                took = median_ms(lambda: scaled_dot_product_attention(q, k, v), place.device, place.runs)
        except RuntimeError:
            continue  # this device or type has no such kernel
        found[f"attention_{backend}_tflops_{name}"] = flops / TERA / (took / 1000)
    took = median_ms(lambda: scaled_dot_product_attention(q, k, v), place.device, place.runs)
    found[f"attention_chosen_tflops_{name}"] = flops / TERA / (took / 1000)
    return found | {f"attention_tflops_{name}": max(found.values())}


@torch.inference_mode()
def step_bf16(place: Place, before: Mapping[str, float]) -> Numbers:
    """The streaming step: eager, then compiled and on a GPU recorded."""
    model = _denoiser(place)
    numbers: Numbers = {}
    velocities = {}
    for size in place.sizes:
        eager = repeated_block(EagerStep(model), model, place, size)
        numbers[f"step_eager_ms_{label(size)}"] = median_ms(eager, place.device, max(3, place.runs // 4))
        velocities[size] = eager()
    numbers |= _fast_steps(model, place, before, "bf16", velocities)
    numbers["compiled_over_eager"] = (
        numbers[f"step_eager_ms_{label(place.sizes[0])}"] / numbers[f"step_bf16_ms_{label(place.sizes[0])}"]
    )
    numbers["weight_gb_bf16"] = sum(p.nbytes for p in model.parameters()) / 1e9
    return numbers | _room(place, model, "bf16")


@torch.inference_mode()
def step_fp8(place: Place, before: Mapping[str, float]) -> Numbers:
    """The same with 8-bit linear layers, and the room that 8-bit keys and values leave."""
    model = _denoiser(place)
    fp8.quantise(model, place.preset.dit)
    free()
    first = place.sizes[0]
    eager = {first: repeated_block(EagerStep(model), model, place, first)()}
    numbers = _fast_steps(model, place, before, "fp8", eager)
    name = label(place.sizes[0])
    if f"step_bf16_ms_{name}" in before:
        numbers["bf16_over_fp8"] = before[f"step_bf16_ms_{name}"] / numbers[f"step_fp8_ms_{name}"]
    return numbers | _room(place, model, "fp8")


def _denoiser(place: Place) -> CausalDiT:
    model = draw_network(place.preset, "dit", place.device)
    assert isinstance(model, CausalDiT)
    return model


def _fast_steps(
    model: CausalDiT, place: Place, before: Mapping[str, float], kind: str, expected: Mapping[Size, torch.Tensor]
) -> Numbers:
    """``expected`` are the velocities of the eager twin."""
    step = CompiledStep(model)
    for size in place.sizes:
        step.warm_up([full_window(place, size)])
    forward = fastest_step(step)
    numbers: Numbers = {}
    for size in place.sizes:
        run = repeated_block(forward, model, place, size)
        numbers |= _one_size(run, place, size, before, kind)
        if size in expected:
            numbers[f"step_{kind}_off_eager_{label(size)}"] = relative_difference(run(), expected[size])
    return numbers


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference of two tensors over that of the second."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


def _one_size(run: Callable[[], object], place: Place, size: Size, before: Mapping[str, float], kind: str) -> Numbers:
    work, name = step_work(place.preset, geometry(place.preset, *size)), label(size)
    took = median_ms(run, place.device, place.runs)
    numbers = {
        f"step_{kind}_ms_{name}": took,
        f"stage_{kind}_fps_{name}": 1000 * place.preset.frames_per_block / took,
        f"step_{kind}_tflops_{name}": work.flops / TERA / (took / 1000),
    }
    gemm, attention = before.get(f"gemm_{kind}_tflops_{name}"), before.get(f"attention_tflops_{name}")
    if gemm and attention:
        ideal_s = work.product_flops / TERA / gemm + work.attention_flops / TERA / attention
        numbers[f"step_{kind}_of_ceiling_{name}"] = 1000 * ideal_s / took
    if place.device.type == "cuda" and (peak := _peak(place.device)) is not None:
        numbers[f"step_{kind}_mfu_{name}"] = work.flops / TERA / (took / 1000) / peak
    if kernels := kernels_ms(run, place.device):
        numbers[f"launch_efficiency_{kind}_{name}"] = sum(kernels.values()) / wall_ms(run, place.device, 5)
        numbers |= {f"kernels_{what}_ms_{kind}_{name}": each for what, each in kernels.items()}
    with watched(place.device) as steady:
        for _ in range(5):
            run()
    wait_for_device(place.device)
    numbers[f"steady_allocations_{kind}_{name}"] = float(steady.device_allocations)
    numbers[f"steady_recompiles_{kind}_{name}"] = float(steady.recompiles)
    numbers[f"steady_syncs_{kind}_{name}"] = float(steady.syncs)
    return numbers


class _Kept:
    """A step that keeps its last call, to be done again; its inputs are drawn, since zeros are multiplied faster."""

    def __init__(self, forward: StepForward) -> None:
        self._forward = forward
        self.again: Callable[[], torch.Tensor] | None = None

    def __call__(self, noisy: NoisyInput, text: TextKV, window: KVWindow, reference_offset: int) -> torch.Tensor:
        audio = AudioTokens(torch.randn_like(noisy.audio.local), torch.randn_like(noisy.audio.glob))
        drawn = replace(noisy, latent=torch.randn_like(noisy.latent), audio=audio)
        self.again = functools.partial(self._forward, drawn, text, window, reference_offset)
        return self.again()


def repeated_block(
    forward: StepForward, model: CausalDiT, place: Place, size: Size, batch: int = 1
) -> Callable[[], torch.Tensor]:
    """A call that does one block of a full window, again and again; or one of each of ``batch`` sessions at once.

    The same block, whichever ``forward`` does it.
    """
    torch.manual_seed(0)
    kept = _Kept(forward)
    warm_block(kept, model, full_window(place, size, batch))
    assert kept.again is not None
    return kept.again


def full_window(place: Place, size: Size, batch: int = 1) -> KVWindow:
    """A window whose slots are all taken, by keys and values that were drawn."""
    window = _window(place, size, batch)
    for layer in window.layers:
        for memory in (layer.k, layer.v):
            memory.normal_()
    window.block = window.window_blocks
    return window


def _window(place: Place, size: Size, batch: int = 1) -> KVWindow:
    return new_window(place.preset, geometry(place.preset, *size), place.dtype, place.device, batch)


def _room(place: Place, model: CausalDiT, kind: str) -> Numbers:
    """Sessions of the first size that fit beside these weights, computed from the device's memory."""
    if place.device.type != "cuda":
        return {}
    window = _window(place, place.sizes[0])
    text = 2 * place.preset.dit.num_layers * place.preset.dit.text_len * place.preset.dit.dim * place.dtype.itemsize
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    left = torch.cuda.get_device_properties(place.device).total_memory - weights - _RESERVE_BYTES
    per_session = window.nbytes + text
    narrow = window.nbytes // place.dtype.itemsize + text
    return {
        f"session_gb_{kind}": per_session / 1e9,
        f"sessions_resident_{kind}": left // per_session,
        f"sessions_resident_{kind}_fp8_kv": left // narrow,
    }


@torch.inference_mode()
def decoder(place: Place, before: Mapping[str, float]) -> Numbers:
    """A block of pictures: eager and fast, and when its first four leave."""
    vae = draw_network(place.preset, "vae", place.device)
    assert isinstance(vae, VAE)
    fast, numbers = compile_vae(vae), Numbers()
    for size in place.sizes:
        grid, name = geometry(place.preset, *size), label(size)
        fast.warm_up(grid.height, grid.width)
        latent = random_like(place.device, place.dtype, 1, place.preset.vae.latent_channels, 1, grid.height, grid.width)
        latents = place.preset.stream.latents_per_block
        pictures = []
        for kind, one in (("eager", vae), ("fast", fast)):
            cache = DecoderCache()
            for _ in range(4):
                last = one.decode_pixels(latent, cache)
            pictures.append(last.int())
            first = functools.partial(one.decode_pixels, latent, cache)
            whole = functools.partial(_repeat, first, latents)
            numbers[f"decode_{kind}_ms_{name}"] = median_ms(whole, place.device, max(3, place.runs // 2))
            numbers[f"decode_{kind}_first_ms_{name}"] = median_ms(first, place.device, max(3, place.runs // 2))
        numbers[f"decode_bytes_off_eager_{name}"] = float((pictures[0] - pictures[1]).abs().max())
        first_ms, whole_ms = numbers[f"decode_fast_first_ms_{name}"], numbers[f"decode_fast_ms_{name}"]
        numbers[f"first_frame_share_{name}"] = first_ms / whole_ms
    return numbers


def _repeat(run: Callable[[], object], times: int) -> None:
    for _ in range(times):
        run()


def computed(place: Place, measured: Mapping[str, float]) -> Numbers:
    """What follows from measured parts; nothing here was measured as a whole."""
    name, frames = label(place.sizes[0]), place.preset.frames_per_block
    decode, hop = measured.get(f"decode_fast_ms_{name}"), measured.get("service_overhead_ms", 0.0)
    numbers: Numbers = {}
    for kind in ("bf16", "fp8"):
        step = measured.get(f"step_{kind}_ms_{name}")
        if step is None or decode is None:
            continue
        alone = 1000 * frames / (STEPS * step + decode)
        numbers |= {
            f"computed_one_gpu_fps_{kind}": alone,
            f"computed_one_gpu_realtime_{kind}": alone / PLAYBACK_FPS,
            f"projected_five_gpu_fps_{kind}": 1000 * frames / max(step + hop, decode + hop),
            f"projected_first_frame_ms_{kind}": STEPS * (step + hop) + measured[f"decode_fast_first_ms_{name}"],
            f"decode_share_{kind}": decode / step,
        }
    return numbers


def _peak(device: torch.device) -> float | None:
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in name), None)
