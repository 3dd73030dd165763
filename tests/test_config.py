"""Presets: what they promise each other, and their way to a file and back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from live_avatar.config import PRESETS, S2V_14B, TINY, dit_config_from_public, preset, preset_json


@pytest.mark.parametrize("name", PRESETS)
def test_a_file_describes_the_same_preset(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(preset_json(PRESETS[name]))
    assert preset(str(file)) == PRESETS[name]


def test_unknown_presets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'HUGE'; there are S2V_14B, TINY"):
        preset("HUGE")
    with pytest.raises(ValueError, match=r"missing\.json cannot be read: No such file or directory"):
        preset(str(tmp_path / "missing.json"))


def test_a_file_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    described = json.loads(preset_json(TINY))
    described["dit"]["colour"] = 3
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="colour"):
        preset(str(file))


def test_sizes_of_the_released_model() -> None:
    """Spec 0 and 1.3 at 704x384."""
    assert S2V_14B.frames_per_block == 12
    assert S2V_14B.samples_per_block == 7680
    assert S2V_14B.dit.tokens_per_latent(88, 48) == 1056
    assert S2V_14B.dit.sink_tokens(88, 48) == 2640


@pytest.mark.parametrize(("dim", "tokens"), [(80, 3), (80, 4), (100, 7), (192, 1)])
def test_a_width_needs_to_be_a_multiple_of_four_alone(dim: int, tokens: int) -> None:
    assert replace(TINY.dit, dim=dim, num_heads=2, audio_tokens=tokens).dim == dim


@pytest.mark.parametrize("dim", [82, 90])
def test_other_widths_are_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"dim={dim} must be a multiple of 4"):
        replace(TINY.dit, dim=dim, num_heads=1)


def test_public_settings_that_are_not_served_are_refused() -> None:
    with pytest.raises(ValueError, match="enable_motioner=True"):
        dit_config_from_public({"enable_motioner": True})
    with pytest.raises(ValueError, match="audio_inject_layers"):
        dit_config_from_public({"dim": 96})


def test_a_sink_that_would_hold_before_it_is_made_is_refused() -> None:
    with pytest.raises(ValueError, match="sink_switch_block=0 must be at least 1"):
        replace(TINY.stream, sink_switch_block=0)
