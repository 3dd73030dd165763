"""The denoising step of the streaming forward: eager, and as compiled code of fixed shapes.

Both are a ``StepForward`` and go through the one ``CausalDiT.forward``; ``cuda_graph_step`` has the third.
``EagerStep`` runs operator by operator and is the reference.  ``CompiledStep`` compiles one layer and uses the code
for all that are alike, so that the time of compilation does not grow with the depth.

Knows windows and sizes; knows nothing of sessions, schedules or transport.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from live_avatar.config import DiTConfig
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.dit import CausalDiT, NoiseLevels, NoisyInput, TextKV, TransformerLayer
from live_avatar.model.kv_cache import KVWindow, StreamingAttention
from live_avatar.model.rope import Rotation

Compile = Callable[..., Callable[..., Any]]
"""``torch.compile``, or something that takes the same."""
_COMPILATIONS = 64
"""Of one layer: with and without audio, by number of blocks in the window, for every size of picture."""


class StepForward(Protocol):
    """Predicts the velocity of the next block of a window, and writes its keys and values there."""

    def __call__(self, noisy: NoisyInput, text: TextKV, window: KVWindow, reference_offset: int) -> Tensor:
        """Velocity [B, 16, F, h, w]; the reference stands ``reference_offset`` frames ahead of the block."""
        ...


@dataclass(frozen=True)
class EagerStep:
    """Runs the step operator by operator."""

    model: CausalDiT

    def __call__(self, noisy: NoisyInput, text: TextKV, window: KVWindow, reference_offset: int) -> Tensor:
        """See ``StepForward``."""
        velocity: Tensor = self.model(noisy, None, text, window.begin(reference_offset))
        return velocity


class CompiledStep:
    """Runs compiled code for the sizes that were warmed up, and the eager step for others.

    Args:
        model: shares its weights with the compiled one.
        compiler: what compiles.
    """

    def __init__(self, model: CausalDiT, compiler: Compile = torch.compile) -> None:
        self.model = model
        self._eager = EagerStep(model)
        options: dict[str, Any] = {"guard_filter_fn": _keep_input_guards}
        if _device(model).type == "cpu":
            options["cpp_wrapper"] = True
        self._compiled = _CompiledDiT(model, compiler, options)
        self._rotations = compiler(_rotations, dynamic=False, fullgraph=True, options=options)
        self._warm: set[tuple[Geometry, int, int, torch.dtype]] = set()

    def __call__(self, noisy: NoisyInput, text: TextKV, window: KVWindow, reference_offset: int) -> Tensor:
        """See ``StepForward``."""
        if not self.covers(noisy, window):
            return self._eager(noisy, text, window, reference_offset)
        place = window.place(reference_offset)
        device = window.device
        frames = torch.tensor([place.first_frame, place.reference_frame], device=device)
        slot = torch.arange(place.slot, place.slot + window.block_tokens, device=device)
        return self.forward(contiguous_inputs(noisy), text, window, place.visible, (frames, slot))

    def covers(self, noisy: NoisyInput, window: KVWindow) -> bool:
        """Whether the shapes of this forward were warmed up."""
        usual = noisy.pose is None and noisy.audio.mask is None and noisy.audio.local.shape[:2] == (1, 1)
        return usual and _shapes(window) in self._warm

    def forward(
        self, noisy: NoisyInput, text: TextKV, window: KVWindow, visible: int, where: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The compiled forward.

        Args:
            noisy: what ``covers`` says yes to, in plain memory order, on which the code relies.
            text: the prompt.
            window: of the session.
            visible: see ``Place``.
            where: frame positions [2] of block and reference, and tokens [L] of the slot.
        """
        frames, slot = where
        cos, sin, reference_cos, reference_sin = self._rotations(window.geometry, frames, window.latents_per_block)
        pattern = StreamingAttention(
            window.layers, Rotation(cos, sin), Rotation(reference_cos, reference_sin), slot, visible
        )
        velocity: Tensor = self._compiled(noisy, None, text, pattern)
        return velocity

    @torch.inference_mode()
    def warm_up(self, windows: Iterable[KVWindow]) -> None:
        """Compiles what the blocks of these windows need, from the first to one that finds its window full.

        Slow; to be called before a service is ready.  The windows are empty afterwards.
        """
        for window in windows:
            self._warm.add(_shapes(window))
            with torch._dynamo.config.patch(recompile_limit=_COMPILATIONS):
                for _ in range(window.window_blocks + 1):
                    warm_block(self, self.model, window)
            window.reset()


def warm_block(forward: StepForward, model: CausalDiT, window: KVWindow) -> Tensor:
    """One block of zeros through ``forward``; gives the window a sink of zeros where it has none."""
    config, dtype, device = model.config, model.patch_embedding.weight.dtype, window.device
    geometry, latents = window.geometry, window.latents_per_block
    batch = window.layers[0].k.shape[0]

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    text = model.embed_text(zeros(batch, 1, config.text_dim))
    if not window.has_sink:
        size = (geometry.height, geometry.width)
        motion = zeros(batch, config.latent_channels, 1, *size) if config.use_motion else None
        prefill = window.prefill()
        model(None, model.sink_input(zeros(batch, config.latent_channels, 1, *size), motion), text, prefill)
        window.set_sink(prefill.states())
    noisy = NoisyInput(
        latent=zeros(batch, config.latent_channels, latents, geometry.height, geometry.width),
        time=model.embed_time(torch.zeros(1, 1, device=device)),
        audio=AudioTokens(
            zeros(batch, 1, latents, config.audio_tokens + 1, config.dim), zeros(batch, 1, latents, config.dim)
        ),
    )
    velocity = forward(noisy, text, window, 0)
    window.commit()
    return velocity


class _CompiledLayer(nn.Module):
    """A layer run by code that all layers share: it sees its own window alone, and no number of its own."""

    def __init__(self, layer: TransformerLayer, kind: int, run: Callable[..., Any]) -> None:
        super().__init__()
        self.index = layer.index
        self.kind = kind
        self.layer = copy.copy(layer)
        self.layer.index = 0
        self._run = run

    def forward(
        self,
        x: Tensor,
        level: NoiseLevels,
        text: tuple[Tensor, Tensor],
        audio: AudioTokens | None,
        pattern: StreamingAttention,
    ) -> Tensor:
        """See ``TransformerLayer``."""
        own = StreamingAttention(
            (pattern.layers[self.index],),
            pattern.block_rotation,
            pattern.reference_rotation,
            pattern.slot_tokens,
            pattern.visible,
        )
        out: Tensor = self._run(self.layer, self.kind, x, level, text, audio, own)
        return out


class _CompiledDiT(CausalDiT):
    """The same weights and the same forward; layers, first and last part run compiled."""

    def __init__(self, model: CausalDiT, compiler: Compile, options: dict[str, Any]) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        for name, module in model.named_children():
            self.add_module(name, module)
        run = compiler(_run_layer, dynamic=False, fullgraph=True, options=options)
        layers = [layer for layer in model.layers if isinstance(layer, TransformerLayer)]
        self.layers = nn.ModuleList(_CompiledLayer(layer, _kind(layer, model.config), run) for layer in layers)
        self._run_first = compiler(model.noisy_tokens, dynamic=False, fullgraph=True, options=options)
        self._run_last = compiler(model.velocity, dynamic=False, fullgraph=True, options=options)

    def noisy_tokens(self, noisy: NoisyInput) -> Tensor:
        """See ``CausalDiT``."""
        tokens: Tensor = self._run_first(noisy)
        return tokens

    def velocity(self, x: Tensor, level: NoiseLevels, noisy: NoisyInput) -> Tensor:
        """See ``CausalDiT``."""
        velocity: Tensor = self._run_last(x, level, noisy)
        return velocity


def _keep_input_guards(guards: Sequence[Any]) -> list[bool]:
    """Keeps only the Dynamo guards on call inputs.

    Weights and modules are assumed unchanged after warm-up: checking them hundreds of times a step takes as long as a
    layer of the small preset.  ``_run_layer`` receives what distinguishes layers as a number.
    """
    fixed = ("layer._", "self._", "G[", "GG[", "dict(G[")
    return [not guard.name.startswith(fixed) for guard in guards]


_FORMS: list[tuple[object, ...]] = []
"""Of all layers that were ever compiled in this process: the compiler keeps code by function, not by model."""


def _kind(layer: nn.Module, config: DiTConfig) -> int:
    """Equal for layers that the same code can run: parts, shapes and types of weights, and numbers."""
    parts = tuple((name, type(module)) for name, module in layer.named_modules())
    weights = tuple((name, tensor.shape, tensor.dtype) for name, tensor in layer.state_dict().items())
    form = (*parts, *weights, replace(config, num_layers=1, audio_layers=()))
    if form not in _FORMS:
        _FORMS.append(form)
    return _FORMS.index(form)


def _run_layer(
    layer: TransformerLayer,
    kind: int,
    x: Tensor,
    level: NoiseLevels,
    text: tuple[Tensor, Tensor],
    audio: AudioTokens | None,
    pattern: StreamingAttention,
) -> Tensor:
    assert kind >= 0  # the code for one kind of layer is no other's: looked at, the number becomes a condition
    return layer.forward(x, level, text, audio, pattern)


def _rotations(geometry: Geometry, frames: Tensor, latents: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tables of the block at ``frames[0]`` and of the reference at ``frames[1]``."""
    block = geometry.noisy_rotation(frames[0], latents)
    reference = geometry.reference_rotation(frames[1])
    return block.cos, block.sin, reference.cos, reference.sin


def contiguous_inputs(noisy: NoisyInput) -> NoisyInput:
    """Copies the inputs of a step into contiguous memory; views of larger tensors have strides that no code fits."""
    latent, local, glob = (
        torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
        for tensor in (noisy.latent, noisy.audio.local, noisy.audio.glob)
    )
    return NoisyInput(latent=latent, time=noisy.time, audio=AudioTokens(local, glob))


def _shapes(window: KVWindow) -> tuple[Geometry, int, int, torch.dtype]:
    return window.geometry, window.latents_per_block, window.window_blocks, window.layers[0].k.dtype


def _device(model: CausalDiT) -> torch.device:
    return model.patch_embedding.weight.device
