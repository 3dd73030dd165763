"""What training portraits are like: which are measured, and what is kept beside the weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from live_avatar.model import components, novelty
from live_avatar.model.weight_files import DamagedFileError, WeightsError
from live_avatar.trainer.__main__ import main
from live_avatar.trainer.portraits import Report, measure_portraits, portrait_of
from live_avatar.trainer.presets import PortraitsConfig
from live_avatar.trainer.synthetic.clips import reference
from live_avatar.trainer.synthetic_source import SyntheticSource
from tests.trainer.micro import MICRO, preset_file, write_weights

PEOPLE = 12


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PortraitsConfig:
    monkeypatch.setattr(novelty, "MOST_DIRECTIONS", 3)
    weights = write_weights(tmp_path / "weights")
    return PortraitsConfig(
        preset=preset_file(tmp_path), source="synthetic", clips=PEOPLE, weights=weights, trained_on="drawings"
    )


def measure(config: PortraitsConfig, name: str) -> Report:
    """Of the same weights, in a folder of their own."""
    folder = config.weights.with_name(name)
    folder.mkdir()
    (folder / "vae").symlink_to(config.weights / "vae")
    return measure_portraits(replace(config, weights=folder))


def test_the_portraits_are_added_to_the_weights(config: PortraitsConfig) -> None:
    report = measure_portraits(config)
    assert (report.measured, report.skipped) == (PEOPLE, 0)
    loaded = components.load_training_portraits(MICRO, config.weights)
    assert loaded is not None and loaded.trained_on == "drawings"
    for key, tensor in report.portraits.tensors().items():
        assert torch.equal(tensor, loaded.tensors()[key])
    with pytest.raises(DamagedFileError, match="already holds weights"):
        measure_portraits(config)


def test_the_same_call_gives_the_same_file(config: PortraitsConfig) -> None:
    assert measure(config, "once").manifest == measure(config, "again").manifest
    assert measure(replace(config, first_clip=7), "others").manifest != measure(config, "thrice").manifest


def test_every_size_is_measured(config: PortraitsConfig) -> None:
    report = measure(replace(config, sizes=("64x64", "32x32")), "sizes")
    assert report.measured == 2 * PEOPLE


def test_a_portrait_is_that_of_the_training() -> None:
    """By turns one at rest and a frame of the clip, as ``prepare`` has them."""
    source = SyntheticSource(first=0, count=2, size=64, frames_per_block=12, blocks=(2, 2))
    moving, resting = source.read(0), source.read(1)
    assert any(np.array_equal(portrait_of(source, moving), frame) for frame in moving.frames)
    assert np.array_equal(portrait_of(source, resting), reference(resting))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"source": "", "input": None}, "give either --input DIR or --source NAME"),
        ({"source": "people"}, "the only one is synthetic"),
        ({"sizes": ("64x32",)}, "synthetic clips are square"),
        ({"clips": 3}, "portraits and 1 held out"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    config: PortraitsConfig, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        measure_portraits(replace(config, **changes))  # type: ignore[arg-type]
    assert not (config.weights / components.PORTRAITS).exists()


def test_without_an_autoencoder_nothing_is_measured(config: PortraitsConfig, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        measure_portraits(replace(config, weights=tmp_path / "nothing"))


def test_a_config_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="held_out=1"):
        PortraitsConfig(held_out=1)
    with pytest.raises(ValueError, match="sizes="):
        PortraitsConfig(sizes=())


def test_the_command_says_what_it_found(config: PortraitsConfig, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--preset", config.preset, "--source", "synthetic", "--clips", "12", "--weights", str(config.weights)]
    assert main(["portraits", *options]) == 0
    output = capsys.readouterr().out
    assert "12 portraits measured, 0 clips skipped" in output
    assert "most unlike of those held out: distance" in output
