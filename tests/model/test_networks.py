"""Random networks are the same in every process, and signals pass through them."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from live_avatar.cli.weights import check
from live_avatar.config import S2V_14B, TINY
from live_avatar.model import checkpoint, components
from live_avatar.model.networks import MAX_RANDOM_PARAMETERS, open_networks, parameter_count, random_network
from live_avatar.model.vae import VAE
from live_avatar.model.weight_files import WeightsError

_DIGESTS = """
import sys
from tests.model.test_networks import digest_of
sys.stdout.write(digest_of("audio"))
"""


def digest_of(component: str) -> str:
    state = random_network(TINY, component).state_dict()
    whole = hashlib.sha256()
    for name in sorted(state):
        whole.update(name.encode() + state[name].contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


@pytest.mark.parametrize("component", sorted(components.COMPONENTS))
def test_same_bits_and_frozen(component: str) -> None:
    torch.manual_seed(hash(component) % 1000)
    network = random_network(TINY, component)
    assert digest_of(component) == digest_of(component)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_same_bits_in_another_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DIGESTS],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.stdout == digest_of("audio")


def test_networks_differ_from_each_other_and_by_preset() -> None:
    other = replace(TINY, name="OTHER")
    ours, theirs = (random_network(preset, "audio").state_dict() for preset in (TINY, other))
    assert not torch.equal(ours["local_in.conv.weight"], theirs["local_in.conv.weight"])


def test_pictures_are_bounded_and_not_constant() -> None:
    vae = random_network(TINY, "vae")
    assert isinstance(vae, VAE)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        latents = vae.encode(torch.rand(1, 3, 5, 64, 64, generator=generator) * 2 - 1)
        video = vae.decode(torch.randn(1, 16, 2, 8, 8, generator=generator))
    assert 0.05 < latents.float().std() < 2
    assert 0.1 < video.float().std() < 1
    assert video.float().abs().max() < 8


def test_large_preset_needs_weights() -> None:
    with pytest.raises(WeightsError, match="S2V_14B needs a folder"):
        open_networks(S2V_14B, None)


def _save(folder: Path) -> None:
    for file_set in components.FILE_SETS:
        tensors: dict[str, torch.Tensor] = {}
        for name, component in components.COMPONENTS.items():
            if component.file_set == file_set:
                tensors |= checkpoint.public_state(random_network(TINY, name), component.names(TINY))
        checkpoint.write_weights(folder / file_set, tensors.items(), preset=TINY.name, component=file_set)


def test_weights_of_a_folder(tmp_path: Path) -> None:
    _save(tmp_path)
    networks = open_networks(TINY, tmp_path)
    assert networks.digest == open_networks(TINY, tmp_path).digest != open_networks(TINY, None).digest
    assert str(tmp_path) in networks.description
    loaded, expected = networks.load("audio"), random_network(TINY, "audio")
    assert isinstance(loaded, nn.Module)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        open_networks(TINY, tmp_path)


def test_weights_other_than_expected_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _save(tmp_path)
    check(tmp_path, TINY.name)  # tells the digest as an operator reads it
    reported = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("model digest ")).split()[
        -1
    ]
    assert open_networks(TINY, tmp_path, expected_digest=reported).digest == open_networks(TINY, tmp_path).digest
    with pytest.raises(WeightsError, match=f"digest of the weights is {reported}, expected is {'0' * 64}"):
        open_networks(TINY, tmp_path, expected_digest="0" * 64)
    with pytest.raises(WeightsError, match="random weights"):
        open_networks(TINY, None, expected_digest=reported)


def test_the_digest_distinguishes_systems_of_one_name(tmp_path: Path) -> None:
    other = replace(TINY, stream=replace(TINY.stream, window_blocks=TINY.stream.window_blocks + 1))
    assert open_networks(other, None).digest != open_networks(TINY, None).digest
    _save(tmp_path)
    assert open_networks(other, tmp_path).digest != open_networks(TINY, tmp_path).digest


def test_any_small_system_runs_with_random_weights() -> None:
    small = replace(TINY, name="MINE")
    assert open_networks(small, None).digest.startswith("random:MINE:")
    assert parameter_count(small) <= MAX_RANDOM_PARAMETERS < parameter_count(S2V_14B)
