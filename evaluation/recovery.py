"""What a viewer sees where a session goes on after its pipeline was lost, beside the same session undisturbed.

``python -m evaluation --recovery`` writes ``recovery.md``, ``recovery.json`` and ``recovery.png``.

Letters: T frames, H and W pixels.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluation.avatar import Avatar, as_input
from evaluation.contact_sheet import PICTURES, Part, save_sheet
from evaluation.dataset import Subject, subject
from evaluation.evaluator import NEAR, Evaluator
from evaluation.frame_metrics import Frames, psnr
from evaluation.identity import nearest
from evaluation.mouth_metric import sync
from evaluation.report import bars_table
from evaluation.thresholds import Threshold
from evaluation.variants import Streamed
from evaluation.windows import TimeWindow, session_speech, spans_of
from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.files import write_text
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.block import Block, Conditioning, Primed, Sink
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.local import Generated, generate, warmup_latents

PLACES = (3, 10, 15)
"""Blocks at which sessions go on: before the sink switches, and long after."""
SECONDS = 2
"""After each place that are compared."""
BEFORE = PICTURES // 2
"""Frames of a strip before the place."""
LEAST_RATIO = 0.97

_COLUMNS = (
    "kept", "goes on at", "r", "r undisturbed", "identity", "jump", "jump undisturbed", "usual", "largest", "jump, dB",
    "undisturbed, dB", "frames like undisturbed, dB",
)  # fmt: skip

Numbers = Mapping[str, float]
Way = tuple[int, int]
"""How many finished blocks a session goes on from, and the block at which it does."""


@dataclass(frozen=True)
class Session:
    """One session of a person, undisturbed."""

    subject: Subject
    sink: Sink
    text: Tensor
    audio: Sequence[AudioTokens]
    made: Sequence[Generated]
    frames: Frames
    """[T, H, W, 3] all that were shown."""


class Sessions:
    """Generates sessions, undisturbed and going on from finished blocks, with the weights of one folder."""

    def __init__(self, avatar: Avatar, seed: int) -> None:
        self.preset = avatar.preset
        self._avatar, self._seed = avatar, seed
        self._row = Streamed(name="", about="", avatar=avatar)
        self._decoder = FrameDecoder(avatar.vae, avatar.preset.stream, use_motion=avatar.preset.dit.use_motion)

    @torch.inference_mode()
    def undisturbed(self, whose: Subject, span: TimeWindow) -> Session:
        """The whole session."""
        avatar, sink = self._avatar, self._decoder.encode_portrait(as_input(whose.portrait))
        text = avatar.text(whose.clip.prompt)
        speech = session_speech(whose.clip, [span], self.preset)
        audio = [avatar.tokens(features) for features in avatar.features(speech)]
        made = list(self._generate(sink, text, audio))
        return Session(whose, sink, text, audio, made, _shown(made))

    @torch.inference_mode()
    def going_on(self, session: Session, kept: int, next_block: int) -> Frames:
        """The frames [T, H, W, 3] of ``SECONDS`` from ``next_block`` on, with the ``kept`` blocks before it."""
        first = max(0, next_block - kept)
        blocks = (Block(one, session.audio[one], session.made[one].latent) for one in range(first, next_block))
        own = session.sink.own(session.made[0].latent[:, :1])
        primed = Primed(tuple(blocks), (Conditioning(self.preset.stream.sink_switch_block, sink=own),))
        audio = session.audio[next_block : next_block + blocks_compared(self.preset)]
        return _shown(self._generate(session.sink, session.text, audio, primed))[: frames_compared(self.preset)]

    def _generate(
        self, sink: Sink, text: Tensor, audio: Sequence[AudioTokens], primed: Primed | None = None
    ) -> Iterator[Generated]:
        return generate(
            [self._row.denoiser(self.preset.stream)],
            self._decoder,
            sink=sink,
            warmup=warmup_latents(sink, self._decoder),
            text=text,
            audio=audio,
            seed=self._seed,
            primed=primed,
        )


def frames_compared(preset: Preset) -> int:
    """Frames after a place."""
    return SECONDS * preset.stream.fps


def blocks_compared(preset: Preset) -> int:
    """Blocks that hold ``frames_compared``."""
    return -(-frames_compared(preset) // preset.frames_per_block)


def first_frame(next_block: int, preset: Preset) -> int:
    """The first frame shown of a block after the first."""
    return next_block * preset.frames_per_block - preset.stream.dropped_frames


def session_span(preset: Preset) -> TimeWindow:
    """The session in which all places lie."""
    blocks = max(PLACES) + blocks_compared(preset)
    return spans_of([0], blocks * preset.samples_per_block / SAMPLE_RATE_HZ, preset)[0]


def measure(avatar: Avatar, evaluator: Evaluator, size: int, clips: int, seed: int, out: Path) -> int:
    """Measures all people and places, and writes the results; returns the exit status, 1 where a bar is missed.

    Args:
        avatar: the networks.
        evaluator: of spans like ``session_span``.
        size: pixels of a frame's side.
        clips: people, the first of the held-out split.
        seed: of the sessions.
        out: folder of the results.
    """
    sessions, span = Sessions(avatar, seed), session_span(avatar.preset)
    window = avatar.preset.stream.window_blocks
    found: dict[Way, list[Numbers]] = {}
    for number in range(clips):
        session = sessions.undisturbed(subject(number, span, avatar.preset, size), span)
        for way in [(kept, place) for kept in (window, 1) for place in PLACES]:
            frames = sessions.going_on(session, *way)
            found.setdefault(way, []).append(numbers(evaluator, session, way[1], frames, avatar.preset))
            _save_strips(session, frames, way, out / "recovery", avatar.preset)
    bars = thresholds([one for place in PLACES for one in found[window, place]])
    text = report(found, bars, avatar.preset, clips)
    write_text(out / "recovery.md", text)
    stored = {f"{kept} blocks, at {place}": each for (kept, place), each in found.items()}
    write_text(out / "recovery.json", json.dumps({"bars": {bar.what: bar.value for bar in bars}, "ways": stored}))
    _draw(out, window, clips)
    print(text)
    return int(any(bar.verdict != "yes" for bar in bars))


def numbers(evaluator: Evaluator, session: Session, next_block: int, frames: Frames, preset: Preset) -> Numbers:
    """What ``frames`` from ``next_block`` on are like, by key; all else is of the undisturbed session."""
    first = first_frame(next_block, preset)
    there = session.frames[first : first + len(frames)]
    hidden = preset.stream.dropped_frames
    truth = session.subject.clip.openness[first + hidden : first + hidden + len(frames)]
    read, read_there = (evaluator.mouths.read(each) for each in (frames, there))
    last = session.frames[first - 1]
    return {
        "sync": sync(read, truth, NEAR).correlation,
        "sync_undisturbed": sync(read_there, truth, NEAR).correlation,
        "identity": float(nearest(evaluator.faces.read(frames), evaluator.references) == session.subject.number),
        "jump": _difference(last, frames[0]),
        "jump_undisturbed": _difference(last, there[0]),
        "jump_usual": statistics.median(starmap(_difference, pairwise(there))),
        "jump_most": max(starmap(_difference, pairwise(there))),
        "jump_psnr": psnr(frames[:1], last[None]),
        "jump_psnr_undisturbed": psnr(there[:1], last[None]),
        "psnr": psnr(frames, there),
    }


def thresholds(measured: Sequence[Numbers]) -> list[Threshold]:
    """The bars, over all people and places."""
    ratio = _mean(measured, "sync") / _mean(measured, "sync_undisturbed")
    jump = _mean(measured, "jump") / _mean(measured, "jump_undisturbed")
    return [
        Threshold(f"r of the {SECONDS} s after going on, over undisturbed", ratio, least=LEAST_RATIO),
        Threshold("identity right", _mean(measured, "identity"), least=1.0),
        Threshold("jump over the undisturbed difference of the same frames", jump, most=1.25),
    ]


def report(found: Mapping[Way, Sequence[Numbers]], bars: Sequence[Threshold], preset: Preset, clips: int) -> str:
    """The table as Markdown."""
    block_s = preset.samples_per_block / SAMPLE_RATE_HZ
    rows = [
        f"# Recovery: {preset.name}, {clips} people",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
    ]
    keys = ("sync", "sync_undisturbed", "identity", "jump", "jump_undisturbed", "jump_usual", "jump_most", "jump_psnr",
            "jump_psnr_undisturbed", "psnr")  # fmt: skip
    forms = ("{:.3f}", "{:.3f}", "{:.0%}", *["{:.2f}"] * 4, *["{:.1f}"] * 3)
    for (kept, place), each in found.items():
        cells = [form.format(_mean(each, key)) for key, form in zip(keys, forms, strict=True)]
        rows.append("| " + " | ".join([_blocks(min(kept, place)), f"{place * block_s:.1f} s", *cells]) + " |")
    return "\n".join([*rows, "", *bars_table(bars), ""])


def _blocks(count: int) -> str:
    return f"{count} block{'s' if count > 1 else ''}"


def _shown(made: Sequence[Generated] | Iterator[Generated]) -> Frames:
    return np.concatenate([frames.pixels.numpy() for one in made for frames in one.frames])


def _difference(one: Frames, other: Frames) -> float:
    """Mean absolute difference of two frames [H, W, 3], 0..255."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def _mean(measured: Sequence[Numbers], key: str) -> float:
    return statistics.fmean(one[key] for one in measured)


def _strip(folder: Path, number: int, kept: int, place: int) -> Path:
    """The file of a strip; 0 blocks kept: undisturbed."""
    return folder / f"{number}-{place}-{kept}.png"


def _save_strips(session: Session, frames: Frames, way: Way, folder: Path, preset: Preset) -> None:
    """Writes consecutive frames around the place, as the session went on and undisturbed."""
    kept, place = way
    first = first_frame(place, preset)
    before, there = (session.frames[start : start + BEFORE] for start in (first - BEFORE, first))
    folder.mkdir(parents=True, exist_ok=True)
    for name, after in ((kept, frames[:BEFORE]), (0, there)):
        strip = np.concatenate([*before, *after], axis=1)
        Image.fromarray(strip).save(_strip(folder, session.subject.number, name, place))


def _draw(out: Path, window: int, clips: int) -> None:
    """Draws the contact sheet: each person undisturbed, and below going on in the middle of the strip."""
    folder, place = out / "recovery", PLACES[-1]
    strips = [
        (label, _strip(folder, number, kept, place))
        for number in range(clips)
        for label, kept in ((f"person {number + 1}, undisturbed", 0), (f"from {window} blocks", window))
    ]
    title = f"Consecutive frames; the lower session goes on from finished blocks at frame {BEFORE + 1} of the strip"
    save_sheet([Part(title, tuple(strips))], out / "recovery.png")
