"""Spans of long sessions: where they lie, what is said in them, and that they are decoded as if all had been."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.avatar import Avatar
from evaluation.dataset import subject
from evaluation.frame_metrics import Frames
from evaluation.plan import jobs_of
from evaluation.variants import Script, Streamed, TrueFrames
from evaluation.windows import MEMORY_BLOCKS, TimeWindow, session_speech, spans_of
from live_avatar.config import TINY
from tests.trainer.micro import MICRO, write_weights

SECONDS = 0.96
LATE_S = 8


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    folder: Path = tmp_path_factory.mktemp("quality")
    return Avatar(MICRO, write_weights(folder))


def row_of(avatar: Avatar, **switches: bool) -> Streamed:
    return Streamed(name="row", about="", avatar=avatar, **switches)


def frames_of(row: Streamed, *starts: int, seconds: float = SECONDS) -> list[Frames]:
    spans = spans_of(starts, seconds, MICRO)
    record = row.record(subject(3, spans[0], MICRO, 64), spans, 0, lambda done: None)
    return [segment.frames for segment in record.segments]


def test_spans_are_whole_blocks() -> None:
    spans = spans_of([0, 100, 10_000], 10, TINY)
    assert [(span.first_block, span.blocks) for span in spans] == [(0, 21), (208, 21), (20_833, 21)]
    assert [str(span) for span in spans] == ["0-10 s", "100-110 s", "10000-10010 s"]


@pytest.mark.parametrize("starts", [[], [100, 0], [0, 5]])
def test_spans_that_cannot_be_are_refused(starts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"overlap|nothing to look at"):
        spans_of(starts, 10, TINY)


def test_the_same_is_spoken_in_every_span() -> None:
    spans = spans_of([0, 4], SECONDS, TINY)
    clip = subject(0, spans[0], TINY, 16).clip
    pieces = list(session_speech(clip, spans, TINY))
    assert len(pieces) == spans[-1].end_block
    for span in spans:
        assert np.array_equal(np.concatenate(pieces[span.first_block : span.end_block]), clip.samples)
    between = np.concatenate(pieces[spans[0].end_block : spans[1].first_block])
    assert between.std() > 0.001
    assert {piece.size for piece in pieces} == {TINY.samples_per_block}


@pytest.mark.slow
def test_a_late_span_has_the_pictures_of_a_session_that_was_decoded_whole(avatar: Avatar) -> None:
    """Bit for bit: what is said before the span is the same in both, since the long one begins with it."""
    spans = spans_of([0, LATE_S], SECONDS, MICRO)
    assert spans[1].first_block > MEMORY_BLOCKS + spans[0].end_block, "some blocks must be left out"
    row, who = row_of(avatar), subject(3, spans[0], MICRO, 64)
    late = row.record(who, spans, 0, lambda done: None).segments[1]
    whole = TimeWindow(0, 0, 0, spans[1].end_block)
    script = Script(who.portrait, who.clip.prompt, session_speech(who.clip, spans, MICRO))
    (segment,) = row.session(script, [whole], 0, lambda done: None).segments
    assert np.array_equal(segment.frames[-len(late.frames) :], late.frames)


def test_only_what_a_switch_is_about_changes(avatar: Avatar) -> None:
    """Rows are equal until the part that one of them lacks comes in."""
    blocks = 7 * 0.48
    plain, *others = (
        frames_of(row_of(avatar, **switches), 0, seconds=blocks)[0]
        for switches in ({}, {"switches_sink": False}, {"rolls": False}, {"clean_history": True})
    )
    frames, dropped = MICRO.frames_per_block, MICRO.stream.dropped_frames
    # AAS from block 4 on; the reference leaves the position of the prefill at the earliest in block 1; history in 1.
    for other, block in zip(others, (MICRO.stream.sink_switch_block, 1, 1), strict=True):
        first = block * frames - dropped
        assert np.array_equal(other[:first], plain[:first])
        assert not np.array_equal(other[first:], plain[first:])


def test_long_sessions_come_after_short_ones_and_only_where_a_row_reaches() -> None:
    near, far = spans_of([0], SECONDS, TINY), spans_of([100, 1000], SECONDS, TINY)
    short = TrueFrames(name="short", about="")
    long = TrueFrames(name="long", about="", furthest_s=100)
    jobs = list(jobs_of([long, short], 2, near, far, 1))
    assert [(job.row.name, job.number, len(job.spans)) for job in jobs] == [
        ("long", 0, 1), ("long", 1, 1), ("short", 0, 1), ("short", 1, 1), ("long", 0, 2),
    ]  # fmt: skip
