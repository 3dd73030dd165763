"""What must come of a session: the library's loop, which goes on primed where the session did."""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
import torch

from drills.viewer import Viewer, digest
from live_avatar.config import SAMPLE_RATE_HZ, Preset
from live_avatar.model.audio_tokens import AudioTokens
from live_avatar.streaming.audio_window import AudioWindow
from live_avatar.streaming.block import Block
from live_avatar.streaming.local import Generated
from tests.system.harness.recordings import Recording
from tests.system.harness.reference import System

STEPS = 4


class Oracle:
    """Compares what viewers got with what the library makes of the same speech."""

    def __init__(self, preset: Preset) -> None:
        self._system = System(preset)
        self._preset = preset

    def wrong_blocks(self, viewer: Viewer) -> list[int]:
        """Blocks of which a frame that came is not that of the loop."""
        dropped, size = self._preset.stream.dropped_frames, self._preset.frames_per_block
        expected = self._frames(viewer.recording, places(viewer.moved), viewer.blocks)
        wrong = {
            (number + dropped) // size
            for number, (came, right) in enumerate(zip(viewer.frames, expected, strict=False))
            if came != right
        }
        return sorted(wrong)

    def _frames(self, recording: Recording, moved: Sequence[int], blocks: int) -> Iterator[bytes]:
        """Digest of each frame of ``blocks`` blocks."""
        audio = list(self._tokens(recording))
        made: list[Block] = []
        for first, end in pairwise([0, *moved, blocks]):
            for one in islice(self._segment(recording, audio, made, first), max(0, end - first)):
                made.append(Block(index=one.block, audio=audio[one.block], latent=one.latent))
                for piece in one.frames:
                    yield from (digest(picture.numpy().tobytes()) for picture in piece.pixels)

    def _segment(
        self, recording: Recording, audio: Sequence[AudioTokens], made: Sequence[Block], first: int
    ) -> Iterator[Generated]:
        """The session from ``first`` on, of which ``made`` came before."""
        if first == 0:
            return self._system.play(recording, audio, STEPS)
        return self._system.play_on(recording, made, audio[first:])

    @torch.inference_mode()
    def _tokens(self, recording: Recording) -> Iterator[AudioTokens]:
        """Audio of every block and of the silence that ends the session."""
        window, size = AudioWindow(self._preset), self._preset.samples_per_block
        speech = np.frombuffer(recording.speech, np.float32)
        padded = np.concatenate((speech, np.zeros(4 * size, np.float32)))
        lookahead = round(self._preset.stream.lookahead_s * SAMPLE_RATE_HZ)
        for block in range(recording.blocks + 1):
            end = (block + 1) * size + lookahead
            window.append(padded[end - size if block else 0 : end])
            yield self._system.encode(window.next_block())


def places(moved: Sequence[int]) -> list[int]:
    """Blocks at which a session went on for good: what followed an earlier loss may have been lost as well."""
    kept: list[int] = []
    for block in moved:
        kept = [before for before in kept if before < block]
        kept.append(block)
    return [block for block in kept if block]
