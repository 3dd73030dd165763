"""Which weights a command loads."""

from pathlib import Path

import pytest

from live_avatar.cli import inputs
from live_avatar.config import S2V_14B, TINY, TINY_128


@pytest.mark.parametrize("packaged", [True, False])
def test_the_packages_own_weights_are_for_its_small_presets(
    packaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path if packaged else tmp_path / "none"
    monkeypatch.setattr(inputs, "TRAINED", folder)
    assert inputs.weights_of(TINY.name, None) == (folder if packaged else None)
    assert inputs.weights_of(TINY_128.name, None) == inputs.weights_of(TINY.name, None)
    assert inputs.weights_of(S2V_14B.name, None) is None
    assert inputs.weights_of(TINY.name, Path("random")) is None
    assert inputs.weights_of(S2V_14B.name, Path("mine")) == inputs.weights_of(TINY.name, Path("mine")) == Path("mine")


@pytest.mark.parametrize("given", [None, Path("random"), Path("mine")])
def test_a_preset_that_is_not_there_is_reported_before_anything_starts(given: Path | None) -> None:
    with pytest.raises(ValueError, match="unknown preset 'HUGE'; there are S2V_14B, TINY"):
        inputs.weights_of("HUGE", given)
