"""Networks of others that look at videos, each behind the library that knows it.

What each wants of a picture is written beside it.  Nothing here knows which weights are there.

Letters: N pictures or clips, T frames, H and W pixels, E features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.avatar import as_input
from evaluation.services import read_frames

DINO_SIDE, DINO_MEAN, DINO_STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_FRAMES, CLIP_SIDE = 16, 224
"""Of what I3D looks at."""
INCEPTION_FEATURES, I3D_FEATURES = 2048, 400
EVERY = 5
"""Frames from one picture that DINOv2 sees to the next."""
TOGETHER = 16


@dataclass(frozen=True)
class Videos:
    """What is looked at, and with what."""

    made: Sequence[Path]
    true: Sequence[Path]
    weights: Path
    """Folder of all weights."""


def syncnet(videos: Videos) -> Mapping[str, float]:
    """Confidence and distance at the best offset, averaged over the videos in which the library finds a face.

    Raises:
        ValueError: there is none.
    """
    paths = {"s3fd_weights": str(videos.weights / "sfd_face.pth")}
    paths["syncnet_weights"] = str(videos.weights / "syncnet_v2.model")
    pipeline = import_module("syncnet_python").SyncNetPipeline(paths, device="cpu")
    every = [pipeline.inference(str(video)) for video in videos.made]
    answers = [answer for answer in every if answer[0]]  # without a face: no offsets, and zeros that mean nothing
    if not answers:
        raise ValueError("no face found in any video: faces must be 100 pixels wide for 50 frames")
    return {
        "videos with a face": float(len(answers)),
        "Sync-C": sum(float(answer[3]) for answer in answers) / len(answers),
        "Sync-D": sum(float(answer[4]) for answer in answers) / len(answers),
    }


@torch.no_grad()
def dinov2(videos: Videos) -> Mapping[str, float]:
    """Cosine of the class tokens of every ``EVERY``-th frame and of the first, averaged over the videos."""
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(str(videos.weights / "dinov2"), local_files_only=True).eval()
    likenesses = []
    for video in videos.made:
        pictures = _for_dino(as_input(read_frames(video)[::EVERY]))
        tokens = [model(pixel_values=part).last_hidden_state[:, 0] for part in pictures.split(TOGETHER)]
        likeness = F.cosine_similarity(torch.cat(tokens), tokens[0][:1])
        likenesses.append(float(likeness.mean()))
    return {"DINO-S": sum(likenesses) / len(likenesses)}


def inception_distance(videos: Videos) -> Mapping[str, float]:
    """Fréchet distance of the pictures' Inception features; the network resizes by itself."""
    network = torch.jit.load(str(videos.weights / "inception-2015-12-05.pt")).eval()
    look = _Look(lambda pictures: network(pictures, return_features=True), INCEPTION_FEATURES)
    return {"FID": _distance(look, _pictures(videos.made), _pictures(videos.true))}


def video_distance(videos: Videos) -> Mapping[str, float]:
    """Fréchet distance of the I3D features of clips of ``CLIP_FRAMES`` frames.

    Raises:
        ValueError: fewer than two such clips.
    """
    network = torch.jit.load(str(videos.weights / "i3d_torchscript.pt")).eval()
    look = _Look(lambda clips: network(clips, rescale=False, resize=False, return_features=True), I3D_FEATURES)
    return {"FVD": _distance(look, _clips(videos.made), _clips(videos.true))}


class _Look(nn.Module):
    """A network as the Fréchet distance asks it: [N, ...] to [N, E]."""

    def __init__(self, look: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self._look = look
        self.num_features = features

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        return self._look(inputs)


@torch.no_grad()
def _distance(look: nn.Module, made: Iterator[Tensor], true: Iterator[Tensor]) -> float:
    distance = import_module("torchmetrics.image.fid").FrechetInceptionDistance(feature=look)
    for inputs, is_true in ((made, False), (true, True)):
        for some in inputs:
            distance.update(some, real=is_true)
    return float(distance.compute())


def _pictures(videos: Sequence[Path]) -> Iterator[Tensor]:
    """All pictures, uint8 [N, 3, H, W], some at a time."""
    for video in videos:
        yield from torch.from_numpy(read_frames(video)).movedim(-1, 1).split(TOGETHER)


def _clips(videos: Sequence[Path]) -> Iterator[Tensor]:
    """All clips, [1, 3, T, H, W] in -1..1."""
    for video in videos:
        pictures = F.interpolate(as_input(read_frames(video)), (CLIP_SIDE, CLIP_SIDE), mode="bilinear", antialias=True)
        for first in range(0, len(pictures) - CLIP_FRAMES + 1, CLIP_FRAMES):
            yield pictures[first : first + CLIP_FRAMES].movedim(0, 1)[None]


def _for_dino(pictures: Tensor) -> Tensor:
    """[N, 3, H, W] in -1..1, the middle of each brought to the size and the mean of DINOv2's training."""
    side = min(pictures.shape[-2:])
    top, left = (pictures.shape[-2] - side) // 2, (pictures.shape[-1] - side) // 2
    middle = pictures[..., top : top + side, left : left + side]
    middle = F.interpolate(middle, (DINO_SIDE, DINO_SIDE), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DINO_MEAN, DINO_STD))
    return ((middle + 1) / 2 - mean) / std
