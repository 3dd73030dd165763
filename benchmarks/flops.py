"""What the networks have to calculate, counted from a preset: the yardstick of ``benchmarks.gpu``.

One multiplication and one addition are two operations.  Only matrix products count; what else there is costs time, but
is no work that a faster way could not save.
"""

from dataclasses import dataclass

from live_avatar.config import Preset
from live_avatar.model.attention_patterns import Geometry

KV_PAIRS = 2


@dataclass(frozen=True)
class Product:
    """A matrix product [M, K] x [K, N], and how often a step needs it."""

    rows: int
    inner: int
    columns: int
    count: int

    @property
    def flops(self) -> float:
        """Of all of them."""
        return 2.0 * self.rows * self.inner * self.columns * self.count


@dataclass(frozen=True)
class StepWork:
    """The work of one streaming forward with a full window."""

    products: tuple[Product, ...]
    queries: int
    """Tokens of the block."""
    keys: int
    """Tokens that the block attends to."""
    attention_flops: float

    @property
    def product_flops(self) -> float:
        """Of all matrix products."""
        return sum(product.flops for product in self.products)

    @property
    def flops(self) -> float:
        """All of it."""
        return self.product_flops + self.attention_flops


def geometry(preset: Preset, width: int, height: int) -> Geometry:
    """Latents of a picture; any multiple of the patch counts, larger ones than the preset allows too."""
    factor = preset.vae.spatial_factor
    return Geometry(config=preset.dit, height=height // factor, width=width // factor)


def step_work(preset: Preset, size: Geometry) -> StepWork:
    """What one step of one block needs; keys and values of the prompt are there already."""
    config, stream = preset.dit, preset.stream
    queries = stream.latents_per_block * size.latent_tokens
    keys = size.sink_tokens + stream.window_blocks * queries
    dim, layers, injections = config.dim, config.num_layers, len(config.audio_layers)
    audio_keys = stream.latents_per_block * (config.audio_tokens + 1)
    products = (
        Product(queries, dim, dim, 6 * layers + 2 * injections),
        Product(queries, dim, config.ffn_dim, layers),
        Product(queries, config.ffn_dim, dim, layers),
        Product(audio_keys, dim, dim, KV_PAIRS * injections),
    )
    per_layer = 4.0 * queries * (keys + config.text_len) * dim
    audio = 4.0 * queries * (config.audio_tokens + 1) * dim * injections
    return StepWork(products, queries, keys, per_layer * layers + audio)
