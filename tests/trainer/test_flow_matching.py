"""Flow matching: levels, weights, the mask, and that a training forward is what a stream computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from live_avatar.model.dit import NoisyInput
from live_avatar.model.kv_cache import KVWindow
from live_avatar.streaming.schedule import TIMESTEP_SCALE, inference_schedule, training_sigmas
from live_avatar.trainer.batches import batch_of
from live_avatar.trainer.data import Dataset
from live_avatar.trainer.diffusion_forcing import causal_loss, draw_levels, draw_place
from live_avatar.trainer.flow_matching import bidirectional_loss, draw_level, level_weight, noised, velocity_loss
from live_avatar.trainer.network import (
    Batch,
    Place,
    SpeechToVideo,
    audio_of_block,
    audio_of_blocks,
    bidirectional_velocity,
    causal_velocity,
    geometry_of,
)
from live_avatar.trainer.random_streams import generator
from tests.model.random_dit import randomise
from tests.trainer.micro import MICRO, flow_config

BLOCKS, SIZE = 4, MICRO.stream.latents_per_block
TWIN = 2e-5


@pytest.fixture(scope="module")
def network() -> SpeechToVideo:
    made = SpeechToVideo(MICRO)
    randomise(made)
    made.audio.mix.data.fill_(1.0)
    return made


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    config = flow_config(tmp_path, blocks=BLOCKS)
    return batch_of(Dataset(config.data, 0), config, 0, range(2), torch.device("cpu"))


def place(first: int = 0) -> Place:
    return Place(first, (4, 30, 11, 7))


def levels() -> Tensor:
    return torch.tensor([[0.9, 0.2, 0.6, 0.4], [0.1, 0.8, 0.3, 0.7]])


@torch.inference_mode()
def test_the_forward_of_a_clip_is_the_stream_of_its_blocks(network: SpeechToVideo, batch: Batch) -> None:
    masked = causal_velocity(network, batch, batch.latents, levels(), place(), MICRO.stream.window_blocks)
    dit = network.dit
    window = KVWindow(
        geometry_of(network, batch.latents),
        latents_per_block=SIZE,
        window_blocks=MICRO.stream.window_blocks,
        batch=len(batch),
    )
    text, prefill = dit.embed_text(batch.text), window.prefill()
    dit(None, dit.sink_input(batch.reference, batch.motion), text, prefill)
    window.set_sink(prefill.states())
    audio = audio_of_blocks(network.audio, batch.speech, BLOCKS)
    for block in range(BLOCKS):
        time = dit.embed_time(TIMESTEP_SCALE * levels()[:, block : block + 1])
        part = batch.latents[:, :, SIZE * block : SIZE * (block + 1)]
        given = NoisyInput(latent=part, time=time, audio=audio_of_block(audio, block, SIZE))
        streamed = dit(given, None, text, window.begin(place().distances[block]))
        window.commit()
        expected = masked[:, :, SIZE * block : SIZE * (block + 1)]
        torch.testing.assert_close(streamed, expected, rtol=TWIN, atol=TWIN)


@torch.inference_mode()
def test_audio_of_a_block_is_that_of_the_block_alone(network: SpeechToVideo, batch: Batch) -> None:
    together = audio_of_blocks(network.audio, batch.speech, BLOCKS)
    for block in range(BLOCKS):
        alone = network.audio(batch.speech[..., 12 * block : 12 * (block + 1)])
        part = audio_of_block(together, block, SIZE)
        torch.testing.assert_close(part.local, alone.local)
        torch.testing.assert_close(part.glob, alone.glob)


@pytest.mark.parametrize("window_blocks", [1, 2, 4])
@torch.inference_mode()
def test_a_block_does_not_feel_later_blocks_nor_what_left_the_window(batch: Batch, window_blocks: int) -> None:
    """With one layer: through several, history hands on what it saw."""
    shallow = SpeechToVideo(replace(MICRO, dit=replace(MICRO.dit, num_layers=1, audio_layers=(0,))))
    randomise(shallow)
    plain = causal_velocity(shallow, batch, batch.latents, levels(), place(), window_blocks)
    for changed in range(BLOCKS):
        other = batch.latents.clone()
        other[:, :, SIZE * changed : SIZE * (changed + 1)] += 1
        after = causal_velocity(shallow, batch, other, levels(), place(), window_blocks)
        pairs = zip(plain.split(SIZE, dim=2), after.split(SIZE, dim=2), strict=True)
        felt = [not torch.equal(*pair) for pair in pairs]
        assert felt == [changed <= block < changed + window_blocks for block in range(BLOCKS)]


@torch.inference_mode()
def test_a_bidirectional_clip_feels_every_part_of_itself(network: SpeechToVideo, batch: Batch) -> None:
    level = torch.tensor([0.5, 0.5])
    plain = bidirectional_velocity(network, batch, batch.latents, level)
    other = batch.latents.clone()
    other[:, :, -1] += 1
    assert not torch.equal(plain[:, :, 0], bidirectional_velocity(network, batch, other, level)[:, :, 0])


@torch.inference_mode()
def test_places_shift_positions_and_not_what_stands_at_them(network: SpeechToVideo, batch: Batch) -> None:
    """The motion tokens stay where the session began, so that a late clip differs; it differs little without them."""
    early, late = (causal_velocity(network, batch, batch.latents, levels(), place(first), 4) for first in (300, 600))
    assert not torch.equal(early, late)
    still = replace(MICRO.dit, use_motion=False)
    plain = SpeechToVideo(replace(MICRO, dit=still))
    randomise(plain)
    unmoved = replace(batch, motion=None)
    early, late = (causal_velocity(plain, unmoved, batch.latents, levels(), place(first), 4) for first in (300, 600))
    torch.testing.assert_close(early, late, rtol=1e-3, atol=1e-3)


def test_levels_come_from_serving_and_from_the_distribution(tmp_path: Path) -> None:
    config = flow_config(tmp_path, inference_levels=0.5, level_mean=0.0, level_spread=1.0)
    drawn = np.array([draw_level(config, MICRO.stream, generator(0, "level", step)) for step in range(2000)])
    served = np.isin(drawn.astype(np.float32), np.array(inference_schedule(4).sigmas, np.float32))
    assert 0.45 < served.mean() < 0.55
    assert abs(np.median(drawn[~served]) - 0.5) < 0.04
    uniform = replace(config, levels="shifted_uniform", inference_levels=0.0)
    drawn = np.array([draw_level(uniform, MICRO.stream, generator(0, "level", step)) for step in range(2000)])
    assert abs(np.median(drawn) - 5 * 0.5 / (1 + 4 * 0.5)) < 0.02


def test_weights_of_the_published_levels_are_one_on_average(tmp_path: Path) -> None:
    config = flow_config(tmp_path, levels="shifted_uniform")
    every = level_weight(training_sigmas(5.0), config)
    assert every.mean() == pytest.approx(1.0, abs=1e-4)
    assert every.min() == 0
    assert every.argmax() == (training_sigmas(5.0) - 0.5).abs().argmin()


def test_blocks_share_a_level_as_often_as_configured(tmp_path: Path) -> None:
    config = flow_config(tmp_path, shared_level=0.4, inference_levels=0.0, blocks=3)
    shared = [bool((draw_levels(config, 0, item).diff() == 0).all()) for item in range(500)]
    assert 0.33 < np.mean(shared) < 0.47


def test_places_lie_on_blocks_at_the_start_or_within_reach(tmp_path: Path) -> None:
    config = flow_config(tmp_path, at_start=0.3, furthest_frame=300)
    places = [draw_place(generator(0, "place", step), MICRO.stream, 3, config) for step in range(500)]
    firsts = np.array([place.first_frame for place in places])
    assert 0.23 < (firsts == 0).mean() < 0.38
    assert firsts.max() in range(250, 301)
    assert (firsts % 3 == 0).all()
    distances = {distance for place in places for distance in place.distances}
    assert distances == set(range(4, 31))


def test_the_loss_of_a_perfect_prediction_is_zero_and_weights_count() -> None:
    target = torch.randn(2, 4, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(2, 8, 8)
    assert velocity_loss(target, target, ones, torch.ones(2, 2)) == 0
    wrong = target.clone()
    wrong[:, :, :3] += 1
    assert velocity_loss(wrong, target, ones, torch.ones(2, 2)) == pytest.approx(0.5)
    assert velocity_loss(wrong, target, ones, torch.tensor([[0.0, 1.0]] * 2)) == 0
    assert velocity_loss(wrong, target, 3 * ones, torch.ones(2, 2)) == pytest.approx(1.5)


def test_noised_latents_go_from_clean_to_noise() -> None:
    clean, noise = torch.zeros(1, 4, 3, 8, 8), torch.ones(1, 4, 3, 8, 8)
    for level in (0.0, 0.25, 1.0):
        assert noised(clean, noise, torch.tensor(level)).unique().tolist() == [level]


@pytest.mark.parametrize("loss", [causal_loss, bidirectional_loss])
def test_every_weight_that_is_used_learns(tmp_path: Path, loss: object) -> None:
    config = flow_config(tmp_path)
    network = SpeechToVideo(MICRO)
    randomise(network)
    network.requires_grad_(True)
    batch = batch_of(Dataset(config.data, 0), config, 0, range(2), torch.device("cpu"))
    compute = causal_loss if loss is causal_loss else bidirectional_loss
    compute(network, batch, config, 0, range(2)).backward()
    idle = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert idle == {"dit.pose_embedding.weight"}, "without a pose video its bias alone is used"
