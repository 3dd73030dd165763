"""The synthetic set: what is promised about people, mouths, boxes, voices and the two splits."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from live_avatar.trainer.clip import SAMPLES_PER_FRAME, Clip
from live_avatar.trainer.synthetic import painter
from live_avatar.trainer.synthetic.clips import SyntheticClip, person_of, prompt_of, reference, speech, synthetic_clip
from live_avatar.trainer.synthetic.identity import SKINS_AND_LIPS
from live_avatar.trainer.synthetic.motion import Motion, Traits, still
from live_avatar.trainer.synthetic.sentences import WORDS, draw_text
from live_avatar.trainer.synthetic.synthesis import Phoneme, SpeechError, Voice, stretched, synthesiser
from live_avatar.trainer.synthetic.visemes import REST, mouth_of, shapes_of
from live_avatar.trainer.synthetic.voices import VARIANTS, Split, draw_voice, voices


def clip_of(index: int, split: Split = "train", frames: int = 50) -> SyntheticClip:
    return synthetic_clip(index, frames=frames, size=64, split=split)


def test_a_clip_is_a_function_of_its_index_and_split() -> None:
    first, again = clip_of(3), clip_of(3)
    for field in fields(SyntheticClip):
        assert np.array_equal(getattr(first, field.name), getattr(again, field.name)), field.name
    for other in (clip_of(4), clip_of(3, "held_out")):
        assert not np.array_equal(first.frames, other.frames)
        assert not np.array_equal(first.samples, other.samples)


def test_a_clip_has_the_sizes_it_promises() -> None:
    clip = clip_of(0, frames=30)
    assert clip.frames.shape == (30, 64, 64, 3)
    assert clip.samples.shape == (30 * SAMPLES_PER_FRAME,)
    assert 0.1 < np.abs(clip.samples).max() <= 1
    for track in (clip.openness, clip.width, clip.roundness, clip.teeth):
        assert track.shape == (30,) and track.dtype == np.float32
        assert track.min() >= 0 and track.max() <= 1
    assert len(clip.prompt.encode()) <= 64
    assert reference(clip).shape == (64, 64, 3)


def test_splits_share_neither_voices_nor_words() -> None:
    assert not set(VARIANTS["train"]) & set(VARIANTS["held_out"])
    assert not set(WORDS["train"]) & set(WORDS["held_out"])


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_voice_speaks(split: Split) -> None:
    for name in voices(split):
        assert synthesiser().say("hello", Voice(name=name)).samples.std() > 0.001, name


def test_drawn_voices_say_the_same_in_other_ways() -> None:
    rng = np.random.default_rng(0)
    drawn = [voice for voice in (draw_voice("train", rng) for _ in range(40)) if voice.variant][:20]
    drawn = [replace(voice, name="en-us+drawn", words_per_minute=150) for voice in drawn]
    spoken = [synthesiser().say("five thin fish", voice) for voice in drawn]
    assert len({utterance.samples.tobytes() for utterance in spoken}) == len(drawn) == 20
    assert len({tuple(phoneme.mnemonic for phoneme in utterance.phonemes) for utterance in spoken}) == 1
    again = synthesiser().say("five thin fish", drawn[0])
    assert np.array_equal(again.samples, spoken[0].samples)


def test_no_voice_is_drawn_for_those_held_out() -> None:
    rng = np.random.default_rng(0)
    held_out = {draw_voice("held_out", rng).name for _ in range(200)}
    assert held_out == set(voices("held_out"))


def test_text_has_the_words_asked_for_in_sentences() -> None:
    text = draw_text("train", 20, np.random.default_rng(0))
    assert len(text.replace(".", "").split()) == 20
    assert text.endswith(".") and text[0].isupper()


def test_phonemes_are_timed_within_the_sound() -> None:
    spoken = synthesiser().say("Blue moons and five thin fish.", Voice(name="en-us+f2"))
    starts = [phoneme.start_s for phoneme in spoken.phonemes]
    assert starts == sorted(starts) and starts[-1] <= spoken.samples.size / 16_000
    names = [phoneme.mnemonic for phoneme in spoken.phonemes]
    assert {"b", "l", "u:", "f", "aI"} <= set(names)


def test_a_stretched_voice_keeps_its_phonemes_in_place() -> None:
    spoken = synthesiser().say("Five fish.", Voice(name="en-us+m1"))
    slower = stretched(spoken, 1.25)
    assert slower.samples.size == pytest.approx(1.25 * spoken.samples.size, rel=0.001)
    assert slower.phonemes[3].start_s == pytest.approx(1.25 * spoken.phonemes[3].start_s)


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(SpeechError, match="no voice 'xx-none'"):
        synthesiser().say("hello", Voice(name="xx-none"))


def test_lips_close_for_b_and_open_for_a() -> None:
    assert shapes_of("b")[0][0] == 0 and shapes_of("a")[0][0] == 1
    assert shapes_of("u:")[0][2] == 1 and shapes_of("i:")[0][1] == 1
    assert shapes_of("f")[0][3] > 0.5
    assert shapes_of("_:") == (REST,)
    assert len(shapes_of("aI")) == len(shapes_of("oU")) == 2


def test_a_mouth_opens_when_its_vowel_sounds() -> None:
    phonemes = [Phoneme(0.0, "_"), Phoneme(0.4, "a"), Phoneme(0.8, "m"), Phoneme(1.2, "_:")]
    mouth = mouth_of(phonemes, 40)
    assert mouth.openness[12:18].min() > 0.9
    assert max(mouth.openness[:8].max(), mouth.openness[23:].max()) < 0.05
    late = mouth_of(phonemes, 40, delay_s=0.2)
    assert np.allclose(late.openness[5:], mouth.openness[:-5], atol=0.02)


def test_mouths_are_open_where_the_sound_is_loud() -> None:
    correlations = []
    for index in range(6):
        samples, mouth = speech(100, "train", np.random.default_rng(index))
        loudness = np.sqrt(np.square(samples.reshape(100, -1)).mean(axis=1))
        correlations.append(np.corrcoef(loudness, mouth.openness)[0, 1])
    assert np.mean(correlations) > 0.4


@pytest.mark.parametrize("skin", range(len(SKINS_AND_LIPS)))
def test_an_open_mouth_is_seen_in_its_box_for_every_skin(skin: int) -> None:
    tone, lips = SKINS_AND_LIPS[skin]
    person = replace(person_of(0, "train"), skin=tone, lips=lips)
    motion = replace(still(2), openness=np.array([0.0, 0.9], np.float32))
    frames = painter.paint(person, motion, 64).astype(int)
    top, left, bottom, right = painter.mouth_boxes(person, motion, 64)[1]
    change = np.abs(frames[1] - frames[0])
    assert change[top:bottom, left:right].sum() > 0.75 * change.sum()
    assert change[top:bottom, left:right].max() > 60


def test_blinking_is_seen_in_the_eye_box_alone() -> None:
    person = person_of(1, "train")
    motion = replace(still(2), lid=np.array([0.0, 1.0], np.float32))
    frames = painter.paint(person, motion, 64).astype(int)
    top, left, bottom, right = painter.eye_boxes(person, motion, 64)[1]
    change = np.abs(frames[1] - frames[0])
    assert change.sum() > 2000
    assert change[top:bottom, left:right].sum() > 0.97 * change.sum()


@pytest.mark.parametrize("size", [64, 128])
def test_painting_parts_is_painting_the_whole(size: int) -> None:
    clip = clip_of(2, frames=25)
    person, motion = person_of(2, "train"), _lively(25)
    canvas = painter.Canvas(torch.zeros(3, 25, size, size))
    body, head = painter._grid(None, size), painter._grid(motion, size)
    tracks = {name: torch.from_numpy(track)[:, None, None] for name, track in motion.tracks().items()}
    painter._paint_background(canvas, body, person)
    painter._paint_back_of_head(canvas, head, body, person)
    painter._paint_face(canvas, head, person, tracks)
    painter._paint_eye(canvas, head, person, tracks, -1.0)
    painter._paint_eye(canvas, head, person, tracks, 1.0)
    painter._paint_mouth(canvas, head, person, tracks)
    assert np.array_equal(painter.paint(person, motion, size), canvas.frames())
    assert clip.identity == 2


def _lively(frames: int) -> Motion:
    """The extremes of every track."""
    waves = {name: np.sin(np.arange(frames) * (1 + at / 7)) for at, name in enumerate(still().tracks())}
    scales = {"sway_x": 0.055, "sway_y": 0.035, "turn": 0.07, "gaze": 1.0}
    tracks = {name: wave * scales[name] if name in scales else np.abs(wave) for name, wave in waves.items()}
    return Motion(**{name: track.astype(np.float32) for name, track in tracks.items()})


def test_prompts_distinguish_the_traits() -> None:
    prompts = {prompt_of(Traits(smile=smile, lively=lively)) for smile in (True, False) for lively in (True, False)}
    assert len(prompts) == 4


def test_what_a_prompt_says_is_seen() -> None:
    clips = [clip_of(index, frames=75) for index in range(12)]
    swing = {lively: [_swing(clip) for clip in clips if clip.traits.lively is lively] for lively in (True, False)}
    assert min(swing[True]) > max(swing[False])
    assert all(("smiling" in clip.prompt) is clip.traits.smile for clip in clips)


def _swing(clip: SyntheticClip) -> float:
    """How far the eyes travel, in pixels."""
    return float(np.ptp(clip.eye_boxes[:, 1]) + np.ptp(clip.eye_boxes[:, 0]))


def test_a_clip_of_unequal_length_is_refused() -> None:
    frames, samples = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(640, np.float32)
    with pytest.raises(ValueError, match="2 frames need float32 \\[1280\\] samples"):
        Clip(name="short", frames=frames, samples=samples, prompt="")
    with pytest.raises(ValueError, match="index=-1"):
        synthetic_clip(-1, frames=10, size=64, split="train")
