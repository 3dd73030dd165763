"""Talks live to an avatar, interrupts it, and goes on: python conversation.py HOST:PORT PORTRAIT SPEECH.wav OUT.mp4"""

import asyncio
import sys
import wave
from pathlib import Path
from typing import BinaryIO

from live_avatar.client import AvatarClient, Event, LiveStream, SessionOptions, VideoUnit, live_stream

PIECE_S = 0.04
"""Speech that is sent at once, as a microphone gives it."""


def main(gateway: str, portrait: str, speech: str, out: str) -> None:
    with wave.open(speech) as recording:  # 16-bit samples of one channel
        rate_hz, samples = recording.getframerate(), recording.readframes(recording.getnframes())
    with open(out, "wb") as movie:
        asyncio.run(talk(gateway, Path(portrait).read_bytes(), rate_hz, samples, movie))


async def talk(gateway: str, image: bytes, rate_hz: int, samples: bytes, movie: BinaryIO) -> None:
    async with AvatarClient(gateway) as client:
        session = await client.create_session(image, SessionOptions(sample_rate_hz=rate_hz, delivery="live"))
        async with live_stream(session) as stream, asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(stream, movie))
            await speak(stream, samples[: 2 * 2 * rate_hz], rate_hz, "question")
            await stream.interrupt()  # what was not shown yet is dropped
            await speak(stream, samples[: 3 * rate_hz], rate_hz, "answer")
            await stream.end()  # the avatar finishes what it was given


async def speak(stream: LiveStream, samples: bytes, rate_hz: int, name: str) -> None:
    size = 2 * round(PIECE_S * rate_hz)
    for first in range(0, len(samples), size):
        await stream.send_audio(samples[first : first + size], utterance_id=name)
        await asyncio.sleep(PIECE_S)
    await stream.end_utterance()


async def watch(stream: LiveStream, movie: BinaryIO) -> None:
    async for result in stream:
        if isinstance(result, VideoUnit):
            movie.write(result.data)  # a piece of an MP4 file for each block
        elif isinstance(result, Event):
            print(f"{result.media_time_ns / 1e9:6.2f} s  {result.kind}  {result.utterance_id}")


if __name__ == "__main__":
    main(*sys.argv[1:])
