"""Training of the small speech encoder: what it hears, that it learns, and that a killed run goes on."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Model

from live_avatar.cli.inputs import TRAINED
from live_avatar.config import TINY
from live_avatar.model import components
from live_avatar.model.speech import hidden_states, hop_samples, receptive_samples
from live_avatar.trainer import speech_encoder
from live_avatar.trainer.clip import SAMPLES_PER_FRAME
from live_avatar.trainer.speech_encoder import (
    MouthReader,
    SpeechEncoderConfig,
    Training,
    Utterances,
    draw_windows,
    evaluate,
    export_speech_encoder,
    train_speech_encoder,
    utterances,
)


def config_in(folder: Path, steps: int = 6) -> SpeechEncoderConfig:
    return SpeechEncoderConfig(
        output=folder, utterances=3, utterance_frames=40, held_out=1, steps=steps, batch=2, window_frames=30,
        warmup_steps=2, save_every=3, log_every=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Utterances:
    return utterances(3, 40, "train")


def test_windows_are_normalised_and_in_step_with_their_mouths(pool: Utterances, tmp_path: Path) -> None:
    config = replace(config_in(tmp_path), late_share=0.0, batch=4)
    samples, mouths = draw_windows(pool, config, step=0)
    received = samples[:, : 30 * SAMPLES_PER_FRAME].numpy()
    assert mouths.shape == (4, 30, 4)
    # Silence in a window does not count, so that a window with much of it is quieter.
    assert np.allclose(received.mean(axis=1), 0, atol=0.01) and np.allclose(received.std(axis=1), 1, atol=0.3)
    for sound, mouth in zip(received, mouths.numpy(), strict=True):
        assert any(_lies_in(sound, mouth, pool, index) for index in range(3))


def test_utterances_of_several_processes_are_those_of_one(pool: Utterances, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech_encoder, "FEW", 1)
    together = utterances(3, 40, "train")
    assert np.array_equal(together.samples, pool.samples) and np.array_equal(together.mouths, pool.mouths)


def _lies_in(sound: np.ndarray, mouth: np.ndarray, pool: Utterances, index: int) -> bool:
    """Whether one place of the utterance has both this sound, but for its level, and this mouth."""
    for first in range(11):
        there = pool.samples[index, first * SAMPLES_PER_FRAME : (first + 30) * SAMPLES_PER_FRAME]
        if np.array_equal(mouth, pool.mouths[index, first : first + 30]):
            return bool(np.corrcoef(sound, there)[0, 1] > 0.999)
    return False


def test_a_late_start_is_silence_with_a_shut_mouth(pool: Utterances, tmp_path: Path) -> None:
    samples, mouths = draw_windows(pool, replace(config_in(tmp_path), late_share=1.0), step=1)
    for sound, mouth in zip(samples, mouths, strict=True):
        silent = int((mouth.abs().sum(dim=1) == 0).int().cumprod(0).sum())
        assert silent >= 1
        assert float(sound[:SAMPLES_PER_FRAME].std()) < 1e-6


def test_batches_end_at_the_sound_or_in_silence(pool: Utterances, tmp_path: Path) -> None:
    lengths = {draw_windows(pool, config_in(tmp_path), step)[0].shape[1] for step in range(8)}
    spoken, hop = 30 * SAMPLES_PER_FRAME, hop_samples(TINY.speech)
    assert lengths == {spoken + hop, spoken + hop * TINY.speech.position_kernel // 2}
    assert spoken + hop >= receptive_samples(TINY.speech)


def test_each_state_has_a_head_that_reads_it_where_serving_does() -> None:
    torch.manual_seed(0)
    reader = MouthReader(TINY).eval()
    sound = torch.randn(50 * SAMPLES_PER_FRAME)
    with torch.no_grad():
        reported = reader(sound[None], 24)
        states = hidden_states(reader.encoder, sound[None])[0, :, : 10 * 5 : 10]
        scaled = torch.nn.functional.layer_norm(states, states.shape[-1:])
        expected = torch.einsum("std,sdc->stc", scaled, reader.weight) + reader.bias[:, 0]
    assert reported.shape == (TINY.speech.states, 1, 24, 4)
    # Every fifth frame falls on a hidden state, every tenth one (spec 4.3).
    assert torch.allclose(reported[:, 0, ::5], expected, atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_from_weights_of_the_preset(tmp_path: Path) -> None:
    training = Training(replace(config_in(tmp_path), weights=TRAINED))
    given = components.load(TINY, "speech", TRAINED)
    pairs = zip(training.reader.encoder.parameters(), given.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_it_learns_what_it_receives(pool: Utterances, tmp_path: Path) -> None:
    training = Training(config_in(tmp_path, steps=40))
    losses = [training.learn(pool) for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])
    assert set(evaluate(training.averaged(), pool)) == {"openness", "width", "roundness", "teeth"}


@pytest.mark.slow
def test_a_run_that_was_cut_short_ends_where_an_uninterrupted_one_does(pool: Utterances, tmp_path: Path) -> None:
    whole = train_speech_encoder(config_in(tmp_path / "whole"))
    killed = Training(config_in(tmp_path / "cut"))
    for _ in range(3):
        killed.learn(pool)
    killed.save()
    killed.learn(pool)
    resumed = train_speech_encoder(config_in(tmp_path / "cut"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_export_loads_as_the_speech_encoder_of_its_preset(tmp_path: Path) -> None:
    reader = MouthReader(TINY)
    export_speech_encoder(reader, tmp_path)
    loaded = cast(Wav2Vec2Model, components.load(TINY, "speech", tmp_path))
    sound = torch.randn(1, 8000)
    with torch.no_grad():
        expected = reader.encoder(sound).last_hidden_state
        assert torch.allclose(loaded(sound).last_hidden_state, expected, atol=1e-5)
