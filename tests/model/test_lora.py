"""Adapters: attached equals merged, every spelling loads, and nothing loads in part."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from live_avatar.config import S2V_14B, TINY, LoRAConfig, Preset
from live_avatar.model import lora
from live_avatar.model.components import COMPONENTS, build_on_meta
from live_avatar.model.weight_files import MisshapedTensorError, MissingTensorError, SurplusTensorError, WeightsError
from tests.model.attached_adapter import adapter_state

CONFIG = LoRAConfig(rank=2, alpha=3.0, targets=("q", "ffn.0"))
NAMES = {
    "blocks.0.attn.q.weight": "layer.query.weight",
    "blocks.0.attn.q.bias": "layer.query.bias",
    "blocks.0.ffn.0.weight": "layer.up.weight",
    "blocks.0.norm_q.weight": "layer.norm.weight",
    "head.weight": "head.weight",
}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.up = nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.norm = nn.LayerNorm(4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.up(self.norm(self.query(x))))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = Layer(), nn.Linear(6, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.layer(x)))


def small(seed: int = 0) -> Small:
    torch.manual_seed(seed)
    return Small()


def adapter(seed: int = 1, model: nn.Module | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = lora.adapter_shapes(model or small(), NAMES, CONFIG)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def spell(key: str, prefix: bool, default: bool) -> str:
    return ("base_model.model." if prefix else "") + (key if default else key.replace(".default.", "."))


def test_targets_are_whole_words_of_public_names() -> None:
    assert lora.target_layers(small(), NAMES, CONFIG) == {
        "blocks.0.attn.q": "layer.query",
        "blocks.0.ffn.0": "layer.up",
    }


@pytest.mark.parametrize("preset", [S2V_14B, TINY], ids=lambda preset: preset.name)
def test_every_attention_and_feed_forward_layer_is_a_target(preset: Preset) -> None:
    model, names = build_on_meta(preset, "dit"), COMPONENTS["dit"].names(preset)
    config = preset.dit
    assert len(lora.target_layers(model, names, preset.lora)) == 10 * config.num_layers + 4 * len(config.audio_layers)


def test_a_new_adapter_changes_nothing_and_trains_alone() -> None:
    model, x = small(), torch.randn(3, 4)
    before = model(x)
    lora.attach(model, NAMES, CONFIG)
    assert torch.equal(model(x), before)
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == {
        "layer.query.lora_A",
        "layer.query.lora_B",
        "layer.up.lora_A",
        "layer.up.lora_B",
    }
    assert set(NAMES.values()) <= model.state_dict().keys()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**20), prefix=st.booleans(), default=st.booleans())
def test_attached_equals_merged_in_every_spelling(seed: int, prefix: bool, default: bool) -> None:
    attached, merged, tensors = small(seed), small(seed), adapter(seed + 1)
    lora.attach(attached, NAMES, CONFIG)
    state = adapter_state(attached, NAMES, CONFIG)
    assert state.keys() == tensors.keys()
    for key, tensor in state.items():
        tensor.copy_(tensors[key])
    lora.merge(merged, NAMES, {spell(key, prefix, default): value for key, value in tensors.items()}, CONFIG)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(attached(x), merged(x), rtol=1e-4, atol=1e-4)


def test_merging_rounds_once_to_the_type_of_the_weight() -> None:
    model = small().bfloat16()
    low, high = (adapter()[f"blocks.0.ffn.0.lora_{half}.default.weight"].bfloat16() for half in "AB")
    wanted = (model.layer.up.weight.float() + 1.5 * (high.float() @ low.float())).bfloat16()
    lora.merge(model, NAMES, {key: tensor.bfloat16() for key, tensor in adapter().items()}, CONFIG)
    assert torch.equal(model.layer.up.weight, wanted)


KEY = "blocks.0.attn.q.lora_A.default.weight"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda tensors: tensors.pop(KEY), MissingTensorError, KEY),
        (lambda tensors: tensors.clear(), MissingTensorError, "4 missing"),
        (lambda tensors: tensors.update({KEY: torch.ones(3, 4)}), MisshapedTensorError, rf"{KEY} is \[3, 4\]"),
        (lambda tensors: tensors.update({KEY: tensors[KEY].T}), MisshapedTensorError, KEY),
        (lambda tensors: tensors.update({KEY: torch.ones(2, 4, dtype=torch.int8)}), MisshapedTensorError, "int8"),
        (lambda tensors: tensors.update({"head.lora_A.weight": torch.ones(2, 6)}), SurplusTensorError, "head.lora_A"),
        (lambda tensors: tensors.update({"head.weight": torch.ones(2, 6)}), WeightsError, "head.weight is not an"),
        (lambda tensors: tensors.update({"base_model.model." + KEY: tensors[KEY]}), WeightsError, "there twice"),
    ],
    ids=["missing", "empty", "shape", "transposed", "integers", "surplus", "full weight", "twice"],
)
def test_a_wrong_adapter_changes_nothing(
    change: Callable[[dict[str, Tensor]], object], kind: type[WeightsError], message: str
) -> None:
    model, tensors = small(), adapter()
    change(tensors)
    with pytest.raises(kind, match=message):
        lora.merge(model, NAMES, tensors, CONFIG)
    untouched = small().state_dict()
    assert all(torch.equal(value, untouched[key]) for key, value in model.state_dict().items())
