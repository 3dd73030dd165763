"""The whole pipeline as one loop: frame numbers, the sink switch, and that it is lazy."""

from collections.abc import Iterator

import pytest
import torch

from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.model.dit import CausalDiT
from live_avatar.streaming.block import Conditioning, Sink
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.denoiser import Denoiser, StageSession
from live_avatar.streaming.local import Generated, generate, warmup_latents
from tests.model.random_dit import random_dit
from tests.streaming.small_pipeline import RULES, SEED, VAE_CONFIG, block, random_vae, sink, stages, started, text

BLOCKS = 4


@pytest.fixture(scope="module")
def model() -> CausalDiT:
    return random_dit()


@pytest.fixture(scope="module")
def decoder() -> FrameDecoder:
    return FrameDecoder(random_vae(), RULES, use_motion=True)


def spoken(blocks: int) -> Iterator[AudioTokens]:
    return (block(index).audio for index in range(blocks))


def session(denoisers: list[Denoiser], decoder: FrameDecoder, audio: Iterator[AudioTokens]) -> Iterator[Generated]:
    warmup = warmup_latents(sink(), decoder)
    return generate(denoisers, decoder, sink=sink(), warmup=warmup, text=text(), audio=audio, seed=SEED)


@pytest.fixture(scope="module")
def generated(model: CausalDiT, decoder: FrameDecoder) -> list[Generated]:
    return list(session(stages(model, 1), decoder, spoken(BLOCKS)))


def test_frames_are_numbered_from_zero_without_a_gap(generated: list[Generated]) -> None:
    assert [output.block for output in generated] == list(range(BLOCKS))
    following = 0
    for output in generated:
        for frames in output.frames:
            assert frames.first == following
            following += len(frames.pixels)
    per_block = RULES.latents_per_block * VAE_CONFIG.temporal_factor
    assert following == per_block * BLOCKS - RULES.dropped_frames


def test_latents_are_those_of_the_stages_with_the_sink_switched_at_its_block(
    model: CausalDiT, generated: list[Generated]
) -> None:
    chain = started(1, model=model)
    latents = chain.run(range(RULES.sink_switch_block))
    own = sink().own(latents[0][:, :1])
    assert own.version == 1
    chain.condition(Conditioning(from_block=RULES.sink_switch_block, sink=own))
    latents += chain.run(range(RULES.sink_switch_block, BLOCKS))
    without_switch = started(1, model=model).run(range(BLOCKS))
    for index, output in enumerate(generated):
        assert torch.equal(output.latent, latents[index])
        assert torch.equal(output.latent, without_switch[index]) == (index < RULES.sink_switch_block)


@pytest.mark.parametrize("count", [2, 4])
def test_any_split_over_stages_gives_the_same_latents_and_pictures(
    model: CausalDiT, decoder: FrameDecoder, generated: list[Generated], count: int
) -> None:
    for output, expected in zip(session(stages(model, count), decoder, spoken(BLOCKS)), generated, strict=True):
        assert torch.equal(output.latent, expected.latent)
        for frames, others in zip(output.frames, expected.frames, strict=True):
            assert torch.equal(frames.pixels, others.pixels)


def test_every_stage_receives_version_0_and_then_1(
    model: CausalDiT, decoder: FrameDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[range, int, int]] = []
    condition = Denoiser.condition

    def listen(stage: Denoiser, memory: StageSession, conditioning: Conditioning) -> None:
        assert conditioning.sink is not None
        reported.append((stage.steps, conditioning.from_block, conditioning.sink.version))
        condition(stage, memory, conditioning)

    monkeypatch.setattr(Denoiser, "condition", listen)
    denoisers = stages(model, 2)
    list(session(denoisers, decoder, spoken(BLOCKS)))
    for stage in denoisers:
        assert [(start, version) for steps, start, version in reported if steps == stage.steps] == [
            (0, 0),
            (RULES.sink_switch_block, 1),
        ]


def test_a_block_is_generated_before_the_next_is_received(model: CausalDiT, decoder: FrameDecoder) -> None:
    received = 0

    def listening() -> Iterator[AudioTokens]:
        nonlocal received
        for tokens in spoken(3):
            received += 1
            yield tokens

    for count, output in enumerate(session(stages(model, 1), decoder, listening()), start=1):
        assert (output.block, received) == (count - 1, count)


def test_a_session_without_audio_is_empty(model: CausalDiT, decoder: FrameDecoder) -> None:
    assert list(session(stages(model, 1), decoder, spoken(0))) == []


def test_the_decoder_is_warmed_with_the_motion_or_a_still_reference(decoder: FrameDecoder) -> None:
    with_motion, without = sink(), sink(motion=False)
    assert warmup_latents(with_motion, decoder) is with_motion.motion
    still = warmup_latents(without, decoder)
    assert still.shape[1] == RULES.warmup_latents
    assert all(torch.equal(still[:, [latent]], without.reference) for latent in range(RULES.warmup_latents))


def test_a_models_own_latent_replaces_the_reference_alone() -> None:
    before = sink()
    latent = torch.ones_like(before.reference)
    own = before.own(latent)
    assert isinstance(own, Sink)
    assert (own.version, own.reference is latent, own.motion is before.motion) == (1, True, True)
