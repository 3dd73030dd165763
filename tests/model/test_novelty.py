"""Which portraits the shipped weights know, and how a folder of weights tells."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from live_avatar.config import TINY, TINY_128, Preset
from live_avatar.model import checkpoint, components, novelty
from live_avatar.model.networks import open_networks
from live_avatar.model.novelty import TOLERANCE, TrainingPortraits, Traits, describe
from live_avatar.model.vae import VAE
from live_avatar.model.weight_files import WeightsError
from live_avatar.novelty import Novelty
from live_avatar.trainer.synthetic.clips import person_of
from live_avatar.trainer.synthetic.motion import still
from live_avatar.trainer.synthetic.painter import paint

SHIPPED = Path(components.__file__).parent.parent / "samples" / "tiny"
SIZES = (64, 128)
FIRST, LAST = np.array([110, 160, 240]), np.array([60, 130, 50])
"""Colours from top to bottom of a landscape."""

Picture = npt.NDArray[np.uint8]


@cache
def shipped() -> tuple[VAE, TrainingPortraits]:
    vae, portraits = components.load(TINY, "vae", SHIPPED), components.load_training_portraits(TINY, SHIPPED)
    assert isinstance(vae, VAE) and portraits is not None
    return vae, portraits


def measured(picture: Picture) -> float:
    vae, portraits = shipped()
    found = portraits.novelty(vae, torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 127.5 - 1)
    assert (found.threshold, found.trained_on) == (TOLERANCE, portraits.trained_on)
    return found.measured


def person(number: int, size: int) -> Picture:
    """Somebody whom no training has seen."""
    picture: Picture = paint(person_of(number, "held_out"), still(), size)[0]
    return picture


def natural(size: int, seed: int) -> Picture:
    """A picture with the spectrum of photographs, whose amplitudes fall with the frequency."""
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))
    fall = 1 / np.maximum(np.hypot(across, down), 1 / size)
    waves = np.fft.fft2(random.standard_normal((3, size, size))) * fall
    values = np.fft.ifft2(waves).real
    values = values[0] + 0.3 * values  # channels of photographs go together
    values = (values - values.mean()) / values.std() * 55 + 120
    return np.ascontiguousarray(values.transpose(1, 2, 0).clip(0, 255).astype(np.uint8))


def gradient(size: int) -> Picture:
    share = np.linspace(0, 1, size)[:, None, None]
    return np.broadcast_to((1 - share) * FIRST + share * LAST, (size, size, 3)).astype(np.uint8)


def flat(size: int, level: int) -> Picture:
    return np.full((size, size, 3), level, np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_people_drawn_like_those_of_the_training_are_familiar(size: int) -> None:
    assert max(measured(person(number, size)) for number in range(30)) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_no_drawn_person_of_many_is_called_unlike(size: int) -> None:
    assert max(measured(person(number, size)) for number in range(30, 250)) < 1.2


@pytest.mark.parametrize("size", SIZES)
def test_what_is_no_drawn_person_is_unlike(size: int) -> None:
    random = np.random.default_rng(0)
    others = {f"natural {seed}": natural(size, seed) for seed in range(8)}
    others |= {f"flat {level}": flat(size, level) for level in (0, 64, 128, 200, 255)}
    others |= {"noise": random.integers(0, 256, (size, size, 3), dtype=np.uint8), "gradient": gradient(size)}
    others |= {"upside down": person(3, size)[::-1], "on the side": person(3, size).transpose(1, 0, 2)}
    found = {name: measured(picture) for name, picture in others.items()}
    assert min(found.values()) > TOLERANCE, found


def test_coarse_noise_is_unlike() -> None:
    """Noise that reducing a picture has made smooth."""
    random = np.random.default_rng(0)
    fine = random.integers(0, 256, (64, 4, 64, 4, 3)).mean(axis=(1, 3))
    assert measured(fine.astype(np.uint8)) > TOLERANCE


def test_both_small_presets_have_the_same_portraits() -> None:
    assert components.load_training_portraits(TINY_128, SHIPPED) is not None


def test_weights_may_come_without(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "vae", tmp_path / "vae")
    assert components.load_training_portraits(TINY, tmp_path) is None
    assert open_networks(TINY, None).training_portraits() is None
    assert open_networks(TINY, SHIPPED).training_portraits() is not None


def test_portraits_of_another_autoencoder_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "portraits", tmp_path / "portraits")
    tensors = {key: torch.zeros(shape) for key, shape in components.public_shapes(TINY, "vae").items()}
    checkpoint.write_weights(tmp_path / "vae", tensors.items(), preset="TINY", component="vae")
    with pytest.raises(WeightsError, match="portraits: measured with an autoencoder of digest"):
        components.load_training_portraits(TINY, tmp_path)


def test_damaged_portraits_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "vae", tmp_path / "vae")
    shutil.copytree(SHIPPED / "portraits", tmp_path / "portraits")
    file = tmp_path / "portraits" / "weights-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged in tensor"):
        components.load_training_portraits(TINY, tmp_path)


def test_the_shapes_follow_from_the_autoencoder() -> None:
    shapes = components.public_shapes(TINY, components.PORTRAITS)
    _, portraits = shipped()
    assert {key: tuple(tensor.shape) for key, tensor in portraits.tensors().items()} == shapes
    assert sum(path.stat().st_size for path in (SHIPPED / "portraits").iterdir()) < 64_000


def made_up(count: int, seed: int, preset: Preset = TINY) -> list[Traits]:
    random = torch.Generator().manual_seed(seed)
    size, channels = novelty.shapes(preset.vae)["mean"][0], preset.vae.latent_channels
    return [
        Traits(torch.randn(size, generator=random), torch.randn(channels, generator=random), torch.tensor(0.1))
        for _ in range(count)
    ]


def test_the_limits_are_the_largest_of_those_held_out() -> None:
    held_out = made_up(5, 1)
    portraits = describe(made_up(100, 0), held_out, "made up")
    found = torch.stack([portraits.measure(traits) for traits in held_out])
    torch.testing.assert_close(found.amax(dim=0), portraits.largest)
    again = TrainingPortraits.from_tensors(portraits.tensors(), "made up")
    torch.testing.assert_close(again.measure(held_out[0]), portraits.measure(held_out[0]), rtol=1e-3, atol=1e-3)


def test_too_few_portraits_are_refused() -> None:
    with pytest.raises(ValueError, match="64 portraits and 1 held out: 65 and 1 are needed"):
        describe(made_up(64, 0), made_up(1, 1), "")
    with pytest.raises(ValueError, match="0 held out"):
        describe(made_up(65, 0), [], "")


def test_the_novelty_is_the_largest_of_the_measures() -> None:
    vae, portraits = shipped()
    picture = torch.zeros(3, 64, 64)
    parts = portraits.measure(novelty.traits_of(vae, picture)) / portraits.largest
    expected = Novelty(measured=parts.max().item(), threshold=TOLERANCE, trained_on=portraits.trained_on)
    assert portraits.novelty(vae, picture) == expected
