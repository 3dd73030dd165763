"""Films in files, behind links, and through pipes and devices."""

import asyncio
import io
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from live_avatar.client import movie as module
from live_avatar.client import through
from live_avatar.client.movie import Movie, check_video_path
from live_avatar.config import TINY
from live_avatar.services.gateway.video.muxer import EncodedFrames, FragmentedMp4
from live_avatar.services.vae_decoder.h264 import H264Encoder

SIDE, RATE_HZ, BLOCKS = 64, 16_000, 3
FRAMES = BLOCKS * TINY.frames_per_block


@cache
def fragments() -> tuple[bytes, ...]:
    """A film as a gateway sends it."""
    muxer, encoder = FragmentedMp4(TINY, (SIDE, SIDE), RATE_HZ), H264Encoder(SIDE, SIDE, TINY.stream.fps)
    speech = np.zeros(TINY.samples_per_block, np.float32)
    data = []
    for block in range(BLOCKS):
        grey = np.full((TINY.frames_per_block, SIDE, SIDE, 3), 60 * (block + 1), np.uint8)
        frames = tuple(encoder.encode(grey, starts_block=True))
        pictures = EncodedFrames(block=block, first_frame=block * TINY.frames_per_block, frames=frames)
        data += [unit.data for unit in muxer.mux(pictures, speech)]
    return (*data, muxer.finish())


def write(path: Path, inputs: tuple[Path, ...] = (), finish: bool = True) -> None:
    async def main() -> None:
        with Movie(path, inputs) as movie:
            for piece in fragments():
                await movie.append(piece)
            if finish:
                await movie.finish()

    asyncio.run(main())


def count_frames(data: bytes) -> int:
    with av.open(io.BytesIO(data), "r") as movie:
        return len(list(movie.decode(video=0)))


@pytest.mark.parametrize(
    "name",
    [
        "12:30.mp4", "file:a.mp4", "concat:a|b.mp4", "pipe:1.mp4", "data:,a.mp4", "-y.mp4", "100%03d.mp4", "a#b?c.mp4",
        "ä b'.M4V", "none", os.fsdecode(b"\xff.mp4"), "x" * 251 + ".mp4",
    ],
)  # fmt: skip
def test_any_name_that_a_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name))
    assert os.listdir() == [name]
    assert count_frames(Path(name).read_bytes()) == FRAMES


@pytest.mark.parametrize(("name", "better"), [("a.avi", "a.mp4"), ("a.mov", "a.mp4"), ("a.b.webm", "a.b.mp4")])
def test_names_of_other_kinds_are_refused(tmp_path: Path, name: str, better: str) -> None:
    with pytest.raises(ValueError, match=f"is written as MP4: name it .*/{better}$"):
        check_video_path(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_link_stays_and_its_target_becomes_the_video(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").write_bytes(b"an older film")
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    write(tmp_path / "link.mp4")
    assert (tmp_path / "link.mp4").is_symlink()
    assert count_frames((tmp_path / "real.mp4").read_bytes()) == FRAMES
    assert sorted(os.listdir(tmp_path)) == ["link.mp4", "real.mp4"]


def test_its_own_input_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "speech.mp4"
    source.write_bytes(b"speech")
    (tmp_path / "out.mp4").hardlink_to(source)
    with pytest.raises(ValueError, match="is the same file as the input"):
        write(tmp_path / "out.mp4", inputs=(source,))
    assert source.read_bytes() == b"speech"


def test_a_video_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "new" / "deep" / "out.mp4", finish=False)
    assert os.listdir(tmp_path) == []


def test_a_pipe_gets_the_fragments_as_they_come(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe.mp4", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join()
    assert received[0] == b"".join(fragments())
    assert count_frames(received[0]) == FRAMES
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through, "READER_WAIT_S", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody reads this pipe"):
        write(tmp_path / "pipe")


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError, match="its reader has gone"):
        write(Path(f"/dev/fd/{writing}"))
    os.close(writing)


def test_waiting_for_a_reader_can_be_given_up(tmp_path: Path) -> None:
    """The pipe is full and its reader reads nothing; whoever writes is cancelled all the same."""
    reading, writing = os.pipe()

    async def main() -> None:
        with Movie(Path(f"/dev/fd/{writing}")) as movie:
            async with asyncio.timeout(0.3):
                await movie.append(bytes(10_000_000))

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    os.close(reading)
    os.close(writing)


def test_devices_stay_devices() -> None:
    write(Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="/dev/full cannot be written: No space left on device"):
        write(Path("/dev/full"))


def fail_to_remux(_pieces: Path, whole: Path) -> None:
    whole.write_bytes(b"half")
    raise OSError(28, "No space left on device")


def fail_to_rename(_finished: Path, _path: Path) -> None:
    raise PermissionError(1, "Operation not permitted")


def fail_strangely(_pieces: Path, _whole: Path) -> None:
    raise UnicodeDecodeError("utf-8", b"", 0, 1, "stand-in")


@pytest.mark.parametrize(
    ("step", "stand_in", "reason"),
    [
        ("_remux", fail_to_remux, "No space left on device"),
        ("put_in_place", fail_to_rename, "Operation not permitted"),
        ("_remux", fail_strangely, "stand-in"),
    ],
)
def test_a_video_that_cannot_be_finished_is_kept_as_fragments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, stand_in: Callable[..., None], reason: str
) -> None:
    monkeypatch.setattr(module, step, stand_in)
    (tmp_path / "out.mp4").write_bytes(b"an older film")
    with pytest.raises(OSError, match=f"out.mp4 cannot be finished: .*{reason}.*is kept in ") as failure:
        write(tmp_path / "out.mp4")
    kept = Path(str(failure.value).rpartition(" is kept in ")[2])
    assert count_frames(kept.read_bytes()) == FRAMES
    assert (tmp_path / "out.mp4").read_bytes() == b"an older film"
    assert sorted(os.listdir(tmp_path)) == sorted(["out.mp4", kept.name])


def test_a_disk_that_fills_up_keeps_what_was_written(tmp_path: Path) -> None:
    *_, last = fragments()
    whole = sum(map(len, fragments()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole - len(last) - 100, before[1]))
    try:
        with pytest.raises(OSError, match=r"out\.mp4 cannot be finished: .*is kept in ") as failure:
            write(tmp_path / "out.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = Path(str(failure.value).rpartition(" is kept in ")[2])
    assert os.listdir(tmp_path) == [kept.name]
    assert count_frames(kept.read_bytes()) >= FRAMES - TINY.frames_per_block


@pytest.fixture
def slow_remux(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    begun, remux = threading.Event(), module._remux

    def slowly(pieces: Path, whole: Path) -> None:
        begun.set()
        threading.Event().wait(0.3)
        remux(pieces, whole)

    monkeypatch.setattr(module, "_remux", slowly)
    yield begun


def test_whoever_cancels_the_last_step_waits_for_it(tmp_path: Path, slow_remux: threading.Event) -> None:
    async def main() -> None:
        with Movie(tmp_path / "out.mp4") as movie:
            for piece in fragments():
                await movie.append(piece)
            finishing = asyncio.create_task(movie.finish())
            await asyncio.to_thread(slow_remux.wait)
            finishing.cancel()
            await asyncio.wait({finishing})

    asyncio.run(main())
    assert count_frames((tmp_path / "out.mp4").read_bytes()) == FRAMES
    assert os.listdir(tmp_path) == ["out.mp4"]
