"""Weights and inputs of the known-answer fixtures, made by an integer hash, not stored (spec appendix B)."""

import math
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

INPUT_AMPLITUDE = math.sqrt(3)
WORD = 0xFFFFFFFF

_NORM_ENDS = ("norm_q.weight", "norm_k.weight", "norm3.weight", "gamma", "norm1.weight", "norm2.weight")
_MIXING_KEYS = {"casual_audio_encoder.weights", "weights"}
_TOKEN_ENDS = ("padding_tokens", "trainable_cond_mask.weight")


def generate(name_prefix: str, shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """A float32 state dict: every value follows from ``name_prefix`` + key and its flat index.

    ``shapes`` gives the shape of every key, spelled as in the public checkpoint.
    """
    return {key: _parameter(name_prefix, key, tuple(shape)) for key, shape in shapes.items()}


def generate_input(name: str, shape: Iterable[int], amplitude: float = INPUT_AMPLITUDE) -> Tensor:
    """The float32 input called ``name`` (it starts with ``in:``), uniform in -amplitude..amplitude."""
    return _uniform(name, tuple(shape), 0.0, amplitude)


def _parameter(prefix: str, key: str, shape: tuple[int, ...]) -> Tensor:
    base, amplitude = 0.0, 0.1
    if key.endswith(_NORM_ENDS) or key == "norm.weight":
        base, amplitude = 1.0, 0.2
    elif key in _MIXING_KEYS:
        base, amplitude = 0.75, 0.25
    elif key.endswith("modulation"):
        amplitude = 0.3
    elif key.endswith(_TOKEN_ENDS):
        amplitude = 0.5
    elif len(shape) != 1:
        amplitude = math.sqrt(3 / (math.prod(shape) / shape[0]))
    return _uniform(prefix + key, shape, base, amplitude)


def _uniform(name: str, shape: tuple[int, ...], base: float, amplitude: float) -> Tensor:
    index = np.arange(math.prod(shape), dtype=np.uint64)
    mixed = (index * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & np.uint64(WORD)
    for _ in range(2):
        mixed ^= mixed >> np.uint64(16)
        mixed = mixed * np.uint64(0x045D9F3B) & np.uint64(WORD)
    mixed ^= mixed >> np.uint64(16)
    values = base + (2 * (mixed.astype(np.float64) / 2**32) - 1) * amplitude
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)
