"""The real networks on the meta device are the public checkpoints, tensor for tensor."""

import json
from pathlib import Path

import pytest

from live_avatar.config import S2V_14B
from live_avatar.model import components

FILE_SETS = {
    "dit": "dit_s2v_14b.json",
    "vae": "vae_wan21.json",
    "text": "umt5_xxl_encoder.json",
    "speech": "wav2vec2_xlsr53_large.json",
    components.ADAPTER: "lora_liveavatar_inferred.json",
}


def published(request: pytest.FixtureRequest, file_set: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a public file set, from the folder under test or else the committed one."""
    given: Path = request.config.getoption("--goldens")
    folders = (given, Path(__file__).parent / "data")
    path = next(found for folder in folders if (found := folder / "manifests" / FILE_SETS[file_set]).exists())
    return {key: tuple(shape) for key, (shape, _dtype) in json.loads(path.read_text()).items()}


@pytest.mark.parametrize("file_set", FILE_SETS)
def test_keys_and_shapes_are_the_published_ones(request: pytest.FixtureRequest, file_set: str) -> None:
    assert components.public_shapes(S2V_14B, file_set) == published(request, file_set)


@pytest.mark.parametrize("component", components.COMPONENTS)
def test_public_to_ours_to_public_is_the_identity(component: str) -> None:
    names = components.COMPONENTS[component].names(S2V_14B)
    ours = components.build_on_meta(S2V_14B, component).state_dict().keys()
    back = {mine: public for public, mine in names.items()}
    assert back.keys() == ours
    assert [back[names[public]] for public in names] == list(names)


def test_two_networks_share_the_denoiser_files_without_overlap() -> None:
    dit, audio = (components.component_shapes(S2V_14B, name) for name in ("dit", "audio"))
    assert not dit.keys() & audio.keys()
    assert all(key.startswith("casual_audio_encoder.") for key in audio)
