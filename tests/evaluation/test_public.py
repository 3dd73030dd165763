"""Public metrics: what is said where weights are missing, and known answers by networks made for the test."""

import json
import sys
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from evaluation import __main__ as quality
from evaluation import public_networks
from evaluation.frame_metrics import Frames
from evaluation.public_networks import Videos
from evaluation.services import read_frames

# The public weights are TorchScript, which torch would rather see gone.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:DeprecationWarning")

SIDE, FRAMES = 48, 34


def write_video(path: Path, frames: Frames) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def flickering(seed: int, shade: int = 0) -> Frames:
    """Pictures of one colour each, of random brightness."""
    levels = np.random.default_rng(seed).integers(40, 160, FRAMES) + shade
    return np.broadcast_to(levels[:, None, None, None], (FRAMES, SIDE, SIDE, 3)).astype(np.uint8)


class MeanColour(nn.Module):
    """Two features of a picture: its mean and a constant."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        mean = images.float().mean(dim=(1, 2, 3))
        return torch.stack([mean, torch.zeros_like(mean)], dim=1)


class MeanOfClip(nn.Module):
    """The same of a clip in -1..1."""

    def forward(
        self, clips: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        mean = clips.mean(dim=(1, 2, 3, 4))
        return torch.stack([mean, torch.zeros_like(mean)], dim=1)


def save_script(module: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(module).save(str(path))


def test_without_weights_it_is_printed_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "videos" / "a.mp4", flickering(0))
    weights = tmp_path / "weights"
    arguments = ["--videos", str(tmp_path / "videos"), "--metric-weights", str(weights), "--out", str(tmp_path)]
    assert quality.main(arguments) == 1
    message = capsys.readouterr().out
    for file in ("syncnet_v2.model", "sfd_face.pth", "dinov2/model.safetensors", "inception-2015-12-05.pt"):
        assert f"weights {weights / file}" in message
    assert message.count("--true-videos FOLDER") == 2
    assert (tmp_path / "videos.md").read_text() in message
    assert json.loads((tmp_path / "videos.json").read_text()) == {}


def test_a_folder_without_videos_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert quality.main(["--videos", str(tmp_path), "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().out
    assert "broken.mp4 is left out" in message and "no video that can be read" in message


def test_dinov2_of_local_weights(tmp_path: Path) -> None:
    """A still film is as like its first picture as can be, one that changes is not."""
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=224, patch_size=32)
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    moving = np.random.default_rng(0).integers(0, 255, (FRAMES, SIDE, SIDE, 3)).astype(np.uint8)
    still = write_video(tmp_path / "still.mp4", moving[:1].repeat(FRAMES, axis=0))
    changing = write_video(tmp_path / "changing.mp4", moving)
    alike, unlike = (public_networks.dinov2(Videos([video], [], tmp_path))["DINO-S"] for video in (still, changing))
    assert alike == pytest.approx(1, abs=1e-3)
    assert unlike < alike - 1e-3


def test_frechet_distances_of_local_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of normal distributions in one dimension: square of the difference of means plus that of deviations."""
    save_script(MeanColour(), tmp_path / "inception-2015-12-05.pt")
    save_script(MeanOfClip(), tmp_path / "i3d_torchscript.pt")
    monkeypatch.setattr(public_networks, "INCEPTION_FEATURES", 2)
    monkeypatch.setattr(public_networks, "I3D_FEATURES", 2)
    monkeypatch.setattr(public_networks, "CLIP_SIDE", 16)
    true = [write_video(tmp_path / f"true-{seed}.mp4", flickering(seed)) for seed in range(2)]
    made = [write_video(tmp_path / f"made-{seed}.mp4", flickering(seed, shade=20)) for seed in range(2)]
    same, apart = Videos(true, true, tmp_path), Videos(made, true, tmp_path)
    assert public_networks.inception_distance(same)["FID"] == pytest.approx(0, abs=1e-3)
    means = [np.concatenate([read_frames(video) for video in videos]).mean() for videos in (made, true)]
    expected = (means[0] - means[1]) ** 2
    assert public_networks.inception_distance(apart)["FID"] == pytest.approx(expected, rel=0.02)
    assert public_networks.video_distance(same)["FVD"] == pytest.approx(0, abs=1e-5)
    assert public_networks.video_distance(apart)["FVD"] == pytest.approx(expected / 127.5**2, rel=0.1)


def test_the_command_measures_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_script(MeanColour(), tmp_path / "weights" / "inception-2015-12-05.pt")
    monkeypatch.setattr(public_networks, "INCEPTION_FEATURES", 2)
    for name in ("made", "true"):
        write_video(tmp_path / name / "a.mp4", flickering(0))
    folders = ["--videos", str(tmp_path / "made"), "--true-videos", str(tmp_path / "true")]
    assert quality.main([*folders, "--metric-weights", str(tmp_path / "weights"), "--out", str(tmp_path)]) == 0
    assert set(json.loads((tmp_path / "videos.json").read_text())) == {"FID"}


class Pipeline:
    """Answers as syncnet-python does: offsets, confidences, distances of the faces, the best two, the faces, any?"""

    def __init__(self, weights: dict[str, str], device: str) -> None:
        assert set(weights) == {"s3fd_weights", "syncnet_weights"}

    def inference(self, video: str) -> tuple[object, ...]:
        found = {"one.mp4": (6.0, 8.0), "two.mp4": (4.0, 9.0)}.get(Path(video).name)
        return ([], [], [], 0.0, 0.0, "", False) if found is None else ([0], [found[0]], [found[1]], *found, "[]", True)


def test_synchrony_is_of_the_videos_that_show_a_face(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("syncnet_python")
    library.__dict__["SyncNetPipeline"] = Pipeline
    monkeypatch.setitem(sys.modules, "syncnet_python", library)
    some = Videos([Path("one.mp4"), Path("none.mp4"), Path("two.mp4")], (), Path("w"))
    assert public_networks.syncnet(some) == {"videos with a face": 2, "Sync-C": 5, "Sync-D": 8.5}
    with pytest.raises(ValueError, match="no face found"):
        public_networks.syncnet(Videos([Path("none.mp4")], (), Path("w")))
