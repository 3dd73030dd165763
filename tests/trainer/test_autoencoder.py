"""Training of the small autoencoder: its start, its twin for pictures, its steps, and that a killed run goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from live_avatar.cli.inputs import TRAINED
from live_avatar.config import TINY
from live_avatar.model import components
from live_avatar.model.networks import random_network
from live_avatar.model.vae import VAE, DecoderCache
from live_avatar.trainer.autoencoder import (
    Training,
    build,
    draw_pictures,
    evaluate,
    export_autoencoder,
    make_batch,
    measure_latents,
    psnr,
    train_autoencoder,
)
from live_avatar.trainer.autoencoder_config import AutoencoderConfig, Stage, config_of, further
from live_avatar.trainer.autoencoder_start import LOG_VARIANCE, still_twin
from live_avatar.trainer.muon import Muon, orthogonal
from live_avatar.trainer.synthetic.pool import HELD_OUT, TRAINING, stills, videos

STILL = Stage(frames=1, batch=4, steps=6, learning_rate=2e-3, final_rate=0.5)


def config_in(folder: Path, *stages: Stage) -> AutoencoderConfig:
    return AutoencoderConfig(
        output=folder, stages=stages or (STILL,), people=4, poses=4, clips=4, clip_frames=12, save_every=3, log_every=2
    )


def test_a_run_is_named_and_varied_on_the_command_line() -> None:
    assert config_of([]) == AutoencoderConfig()
    assert config_of(["further", "--device", "cpu"]) == replace(further(), device="cpu")
    assert config_of(["--clips", "7"]).clips == 7
    with pytest.raises(ValueError, match="there is no 'later'; there are start, further"):
        config_of(["later"])


def test_steps_take_pictures_of_several_sizes_in_turn(tmp_path: Path) -> None:
    movie = Stage(frames=5, batch=4, steps=4, learning_rate=1e-4, final_rate=1)
    config = replace(config_in(tmp_path, movie), sizes=(32, 64), log_every=1, evaluate_every=4, clips=4)
    assert [config.size(step) for step in range(3)] == [32, 64, 32]
    assert [movie.clips(size, 32) for size in (32, 64, 128)] == [4, 1, 1]
    train_autoencoder(config)
    reported = [json.loads(line) for line in (tmp_path / "autoencoder.jsonl").read_text().splitlines()]
    assert [line["size"] for line in reported if "loss" in line] == [32, 64, 32, 64]
    assert [line["size"] for line in reported if "held_out_whole" in line] == [32, 64]


def test_a_run_goes_on_from_weights_of_the_preset() -> None:
    training = Training(replace(config_in(Path()), weights=TRAINED))
    given = components.load(TINY, "vae", TRAINED)
    assert all(
        torch.equal(one, other) for one, other in zip(training.vae.parameters(), given.parameters(), strict=True)
    )
    assert not torch.equal(
        training.vae.get_buffer("std"), given.get_buffer("std")
    )  # what is trained is not normalised yet


def test_the_twin_for_pictures_is_the_network_on_one_frame() -> None:
    vae = cast(VAE, random_network(replace(TINY, vae_dtype="float32"), "vae"))
    twin = still_twin(vae)
    pictures = torch.rand(2, 3, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pictures)
        assert torch.allclose(twin.encode(pictures), latents, atol=1e-5)
        decoded = vae.decode_next(latents, DecoderCache())
        assert torch.allclose(twin.decode_next(latents, DecoderCache()), decoded, atol=1e-5)
    assert {id(each) for each in twin.parameters()} <= {id(each) for each in vae.parameters()}


def test_at_the_start_every_latent_of_a_still_video_is_the_first() -> None:
    vae = build(TINY, seed=0)
    picture = make_batch(stills(1, 1, 64, split=TRAINING)).video
    with torch.no_grad():
        mean, log_variance = vae.posterior(picture.expand(-1, -1, 9, -1, -1))
    assert torch.allclose(mean, mean[:, :, :1].expand_as(mean), atol=1e-5)
    assert 0.2 < float(mean.std()) < 5
    assert float((log_variance - LOG_VARIANCE).abs().max()) < 0.5


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_an_update_moves_every_direction_equally_far(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3


def test_boxes_weigh_more_and_all_weights_average_one() -> None:
    pictures = stills(2, 2, 64, split=TRAINING)
    weights = make_batch(pictures, mouth_weight=5, eye_weight=3).weights
    top, left, bottom, right = pictures.mouths[0, 0]
    inside, corner = weights[0, 0, 0, bottom - 1, left], weights[0, 0, 0, 0, 0]
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    assert float(inside / corner) == pytest.approx(5)
    assert float(weights[0, 0, 0, top:bottom, left:right].std()) == pytest.approx(0, abs=1e-5)


def test_a_cut_keeps_what_belongs_together() -> None:
    movie = videos(2, 8, 64, split=TRAINING)
    part = movie.take(np.array([1])).cut(3, 4)
    for name in ("frames", "mouths", "eyes", "openness"):
        assert np.array_equal(getattr(part, name)[0], getattr(movie, name)[1, 3:7]), name


def test_decibels() -> None:
    assert psnr(torch.tensor(4.0)) == pytest.approx(0, abs=1e-6)
    assert psnr(torch.tensor(0.04)) == pytest.approx(20, abs=1e-6)


@pytest.mark.slow
def test_pictures_come_back_better_after_some_steps(tmp_path: Path) -> None:
    stage = replace(STILL, steps=40)
    training = Training(config_in(tmp_path, stage))
    pool = stills(8, 4, 64, split=TRAINING)
    held_out = stills(2, 2, 64, split=HELD_OUT)
    before = evaluate(training.averaged(), held_out)["whole"]
    for step in range(stage.steps):
        training.learn(draw_pictures(pool, stage.batch, 1, (0, step)), stage.rate(step))
    assert evaluate(training.averaged(), held_out)["whole"] > before + 3


@pytest.mark.slow
def test_a_run_that_was_cut_short_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    movie = Stage(frames=5, batch=2, steps=2, learning_rate=3e-4, final_rate=1)
    whole = train_autoencoder(config_in(tmp_path / "whole", STILL, movie))
    killed = Training(config_in(tmp_path / "cut", STILL, movie))
    pool = stills(4, 4, 64, split=TRAINING)
    for step in range(3):
        killed.learn(draw_pictures(pool, STILL.batch, 1, (0, step)), STILL.rate(step))
    killed.save()
    killed.learn(draw_pictures(pool, STILL.batch, 1, (0, 3)), STILL.rate(3))
    resumed = train_autoencoder(config_in(tmp_path / "cut", STILL, movie))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    training = Training(config_in(tmp_path))
    training.save()
    path = tmp_path / "autoencoder.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"autoencoder\.pt: cannot be read"):
        training.restore()


def test_measured_latents_are_normalised_and_the_export_loads(tmp_path: Path) -> None:
    vae, pictures = build(TINY, seed=0), stills(3, 3, 64, split=TRAINING)
    mean, std = measure_latents(vae, pictures)
    system = replace(TINY, vae=replace(TINY.vae, mean=mean, std=std), vae_dtype="float32")
    export_autoencoder(vae, system, tmp_path)
    loaded = cast(VAE, components.load(system, "vae", tmp_path))
    with torch.no_grad():
        latents = loaded.encode(make_batch(pictures).video)
    deviation, average = torch.std_mean(latents, dim=(0, 2, 3, 4))
    assert torch.allclose(average, torch.zeros(16), atol=0.02)
    assert torch.allclose(deviation, torch.ones(16), atol=0.02)


def test_weights_of_one_shape_move_together_as_each_would_alone() -> None:
    def moved(*, together: bool) -> list[Tensor]:
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 6), (4, 6), (6, 4))]
        groups = [weights] if together else [[one] for one in weights]
        optimizers = [Muon(group, lr=0.1) for group in groups]
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn_like(weight)
            for optimizer in optimizers:
                optimizer.step()
        return [weight.detach() for weight in weights]

    for one, other in zip(moved(together=True), moved(together=False), strict=True):
        torch.testing.assert_close(one, other)


def test_the_decoder_learns_alone_from_people_who_speak(tmp_path: Path) -> None:
    movie = Stage(frames=5, batch=2, steps=3, learning_rate=1e-3, final_rate=0.5)
    config = replace(config_in(tmp_path, movie), weights=TRAINED, decoder_alone=True, speaking=True, clips=2)
    before, after = components.load(TINY, "vae", TRAINED).state_dict(), train_autoencoder(config).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "from_latents"}
