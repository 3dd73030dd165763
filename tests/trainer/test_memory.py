"""The memory table against what layers really keep and parameters really are."""

import torch
from torch import Tensor

from live_avatar.config import S2V_14B, DiTConfig
from live_avatar.model import components, dit, lora
from live_avatar.model.attention_patterns import Geometry, joint_attention
from live_avatar.trainer.memory import LAYER_BYTES, adapter_parameters, moments
from live_avatar.trainer.presets import MemoryConfig
from tests.model.random_dit import random_audio, transformer_layer

CONFIG = DiTConfig(
    dim=256, ffn_dim=691, num_heads=4, num_layers=10, audio_layers=(0, 3, 6), audio_dim=8, audio_states=3, text_dim=8,
    text_len=4,
)  # fmt: skip


def test_a_layer_keeps_what_the_table_counts() -> None:
    """The mean of layers with and without audio, in the proportion of the large model."""
    model = dit.CausalDiT(CONFIG).to(torch.bfloat16)
    pattern = joint_attention(Geometry(config=CONFIG, height=16, width=16), 6, torch.device("cpu"))
    reference, motion = torch.zeros(1, 16, 1, 16, 16), torch.zeros(1, 16, 19, 16, 16)
    sink = model.sink_input(reference.bfloat16(), motion.bfloat16())
    latent = torch.zeros(1, 16, 6, 16, 16, dtype=torch.bfloat16)
    audio = random_audio(CONFIG, 6, 0)
    received = type(audio)(audio.local.bfloat16(), audio.glob.bfloat16())
    noisy = dit.NoisyInput(latent=latent, time=model.embed_time(torch.full((1, 1), 500.0)), audio=received)
    x, level = model._tokens(noisy, sink)
    text = model.embed_text(torch.zeros(1, 4, 8, dtype=torch.bfloat16))
    kept = []
    for index in (0, 1):
        layer = transformer_layer(model, index)
        held: dict[int, int] = {}

        def count(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            layer(x.detach().requires_grad_(), level, text.layers[index], received, pattern)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept.append(sum(size for place, size in held.items() if place not in weights))
    mean = 0.3 * kept[0] + 0.7 * kept[1]
    assert 0.8 < mean / (x.shape[1] * CONFIG.dim) / LAYER_BYTES < 1.1


def test_adapters_are_counted_as_they_are() -> None:
    model = components.build_on_meta(S2V_14B, "dit")
    shapes = lora.adapter_shapes(model, components.COMPONENTS["dit"].names(S2V_14B), S2V_14B.lora)
    assert adapter_parameters(S2V_14B) == sum(rows * columns for rows, columns in shapes.values())


def test_all_phases_fit_on_eight_gpus_of_80_gb_and_fewer_do_not() -> None:
    every = moments(MemoryConfig())
    assert {moment.phase for moment in every} == {"base", "diffusion_forcing", "self_forcing"}
    assert all(moment.total <= 80e9 for moment in every)
    assert any(moment.total > 80e9 for moment in moments(MemoryConfig(gpus=4)) if moment.phase == "base")
