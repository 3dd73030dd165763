"""Writes a video of a portrait that speaks a WAV file: python generate.py HOST:PORT PORTRAIT SPEECH.wav OUT.mp4"""

import asyncio
import sys
import wave
from pathlib import Path

from live_avatar.client import AvatarClient, AvatarStream, SessionOptions, VideoUnit


def main(gateway: str, portrait: str, speech: str, out: str) -> None:
    with wave.open(speech) as recording:  # 16-bit samples of one channel
        rate_hz, samples = recording.getframerate(), recording.readframes(recording.getnframes())
    pieces = asyncio.run(generate(gateway, Path(portrait).read_bytes(), rate_hz, samples))
    Path(out).write_bytes(b"".join(pieces))


async def generate(gateway: str, image: bytes, rate_hz: int, samples: bytes) -> list[bytes]:
    async with AvatarClient(gateway) as client:
        session = await client.create_session(image, SessionOptions(sample_rate_hz=rate_hz))
        async with session.stream() as stream, asyncio.TaskGroup() as tasks:
            tasks.create_task(send(stream, samples))
            return [result.data async for result in stream if isinstance(result, VideoUnit)]


async def send(stream: AvatarStream, samples: bytes) -> None:
    await stream.send_audio(samples)  # waits while the server has enough
    await stream.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
