"""What leaves the encoders can be decoded again, from any block on."""

import io
from collections.abc import Sequence

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from live_avatar.config import TINY
from live_avatar.pipeline.v1.blocks_pb2 import VideoProfile
from live_avatar.services.vae_decoder.encoder_thread import EncoderThread
from live_avatar.services.vae_decoder.h264 import H264Encoder, RawEncoder, open_encoder

WIDTH, HEIGHT, FRAMES = 96, 64, 12
IDR, SPS, PPS = 5, 7, 8


def pictures(count: int = FRAMES, first: int = 0) -> NDArray[np.uint8]:
    """A smooth picture that wanders to the right."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    moving = [np.stack([(x + 2 * n) % WIDTH * 2, y * 3, np.full_like(x, 90)], -1) for n in range(first, first + count)]
    return np.stack(moving).astype(np.uint8)


def units(access_unit: bytes) -> list[int]:
    """Types of the NAL units of one access unit."""
    parts = access_unit.split(b"\x00\x00\x01")[1:]
    return [part[0] & 31 for part in parts]


def decoded(access_units: Sequence[bytes]) -> list[NDArray[np.uint8]]:
    with av.open(io.BytesIO(b"".join(access_units)), "r", format="h264") as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def encode(encoder: H264Encoder, blocks: int) -> list[list[bytes]]:
    return [
        encoder.encode(pictures(4, block * FRAMES), starts_block=True)
        + encoder.encode(pictures(8, block * FRAMES + 4), starts_block=False)
        for block in range(blocks)
    ]


def test_one_access_unit_per_picture_and_one_idr_per_block() -> None:
    for block in encode(H264Encoder(WIDTH, HEIGHT, 25), 3):
        assert len(block) == FRAMES
        assert [IDR in units(unit) for unit in block] == [True] + [False] * (FRAMES - 1)
        assert {SPS, PPS} <= set(units(block[0]))


def test_pictures_come_back_from_any_block_on() -> None:
    blocks = encode(H264Encoder(WIDTH, HEIGHT, 25), 3)
    for first in range(3):
        seen = decoded([unit for block in blocks[first:] for unit in block])
        wanted = pictures((3 - first) * FRAMES, first * FRAMES)
        assert len(seen) == len(wanted)
        for picture, original in zip(seen, wanted, strict=True):
            error = np.abs(picture.astype(int) - original.astype(int))[:, 4:-4]
            assert np.median(error) <= 4


def test_same_pictures_same_bytes() -> None:
    assert encode(H264Encoder(WIDTH, HEIGHT, 25), 2) == encode(H264Encoder(WIDTH, HEIGHT, 25), 2)


def test_bitrate_is_bounded() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, HEIGHT, WIDTH, 3), np.uint8)
    sizes = [
        sum(map(len, H264Encoder(WIDTH, HEIGHT, 25, kbps).encode(noise, starts_block=True))) for kbps in (200, 20_000)
    ]
    assert sizes[0] < 2 * 1000 * 200 / 8 * 2 < sizes[1]


def test_raw_pictures() -> None:
    frames = RawEncoder().encode(pictures(2), starts_block=True)
    assert frames == [picture.tobytes() for picture in pictures(2)]


@pytest.mark.parametrize(
    ("width", "height", "kbps", "enlargement"),
    [(63, 64, 100, 1), (64, 0, 100, 1), (64, 64, 0, 1), (64, 64, 10**6, 1), (64, 64, 100, 0), (64, 64, 100, 9)],
)
def test_what_h264_does_not_take(width: int, height: int, kbps: int, enlargement: int) -> None:
    with pytest.raises(ValueError, match=r"even|outside"):
        H264Encoder(width, height, 25, kbps, enlargement)


def test_enlarged_pictures_keep_their_colours() -> None:
    """At the size of generation a red line of one pixel loses much of its colour; enlarged it keeps it."""
    picture = np.full((1, HEIGHT, WIDTH, 3), 128, np.uint8)
    picture[:, 20] = (220, 60, 60)

    def redness(enlargement: int) -> float:
        (unit,) = H264Encoder(WIDTH, HEIGHT, 25, 4_000, enlargement).encode(picture, starts_block=True)
        with av.open(io.BytesIO(unit), "r", format="h264") as container:
            (frame,) = container.decode(video=0)
        assert (frame.width, frame.height) == (WIDTH * enlargement, HEIGHT * enlargement)
        row = frame.to_ndarray(format="rgb24")[20 * enlargement + enlargement // 2, WIDTH // 2].astype(float)
        return float(row[0] - row[1:].mean())

    assert redness(4) > 1.3 * redness(1)


def test_profiles() -> None:
    raw = VideoProfile(encoding=VideoProfile.ENCODING_RAW_RGB24)
    h264 = VideoProfile(encoding=VideoProfile.ENCODING_H264_ANNEXB)
    assert isinstance(open_encoder(raw, WIDTH, HEIGHT, TINY), RawEncoder)
    assert isinstance(open_encoder(h264, WIDTH, HEIGHT, TINY), H264Encoder)
    with pytest.raises(ValueError, match="not served"):
        open_encoder(VideoProfile(), WIDTH, HEIGHT, TINY)


def test_encoder_thread_keeps_order_and_passes_failures_on() -> None:
    class Broken:
        def encode(self, pixels: NDArray[np.uint8], *, starts_block: bool) -> list[bytes]:
            raise RuntimeError("broken")

    with EncoderThread(max_waiting=2) as thread:
        encoder = H264Encoder(WIDTH, HEIGHT, 25)
        futures = [thread.submit(encoder, pictures(4, 4 * piece), starts_block=piece % 3 == 0) for piece in range(6)]
        failing = thread.submit(Broken(), pictures(1), starts_block=True)
        encoded = [unit for future in futures for unit in future.result().frames]
        assert len(decoded(encoded)) == 24
        assert all(future.result().elapsed_ns > 0 for future in futures)
        with pytest.raises(RuntimeError, match="broken"):
            failing.result()
