"""Plays scripts through a pipeline the way a gateway would.

Knows the order of a session's messages; knows nothing of processes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from live_avatar import wire
from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2 import Sink as SinkMessage

from .gateway import Head, Name, Output, key_of, open_request
from .reference import Script, System

PIECE = 7_777
"""Samples of one audio message: no multiple of anything."""
END_S = 60.0


@dataclass
class _Voice:
    """A script's audio, and how much of it has been sent."""

    samples: NDArray[np.float32]
    sent: int = 0

    def pieces(self, name: Name, until: int) -> list[StreamBlocksRequest]:
        """What is to be sent so that ``until`` samples are there, or all."""
        requests = []
        while self.sent < min(until, len(self.samples)):
            piece = self.samples[self.sent : self.sent + PIECE]
            audio = StreamBlocksRequest.Audio(key=key_of(name), samples=piece.tobytes(), sample_offset=self.sent)
            self.sent += len(piece)
            audio.last = self.sent == len(self.samples)
            requests.append(StreamBlocksRequest(audio=audio))
        return requests


class Playing:
    """One script on its way through a pipeline."""

    def __init__(self, head: Head, output: Output, system: System, name: Name, script: Script) -> None:
        self.name = name
        self.script = script
        self._head = head
        self._output = output
        self._system = system
        self._voice = _Voice(script.samples(system.preset))

    async def open(self, sink: SinkMessage | None = None) -> None:
        """Opens the session and sends its first conditioning; ``sink`` instead of the library's own."""
        script = self.script
        request = open_request(
            self.name, seed=script.seed, width=script.width, height=script.height, streaming=script.streaming
        )
        await self._head.open(request)
        await self._output.subscribe(key_of(self.name))
        first = sink or wire.sink_to_message(*self._system.sink(script))
        await self._head.condition(self.name, 0, ConditioningBody(sink=first, prompt=script.prompt))

    async def resume(self, blocks: Sequence[bytes], next_block: int, own: SinkMessage) -> None:
        """Opens the session at ``next_block`` with the last finished ``blocks`` before it and the model's ``own`` sink.

        Audio is sent from the left context on where it is heard as it comes, else as a whole again.
        """
        script, rules = self.script, self._system.preset.stream
        first_block = max(0, next_block - rules.window_blocks)
        request = open_request(
            self.name, seed=script.seed, width=script.width, height=script.height, streaming=script.streaming
        )
        request.first_block, request.primed_blocks = first_block, next_block - first_block
        await self._head.open(request)
        await self._output.subscribe(key_of(self.name))
        first = ConditioningBody(sink=wire.sink_to_message(*self._system.sink(script)), prompt=script.prompt)
        await self._head.condition(self.name, 0, first)
        await self._head.condition(self.name, rules.sink_switch_block, ConditioningBody(sink=own))
        for data in blocks[first_block:next_block]:
            block = StreamBlocksRequest.Block.FromString(data)
            block.key.CopyFrom(key_of(self.name))
            await self._head.link.send(StreamBlocksRequest(block=block))
        if script.streaming:
            left_context = round(rules.left_context_s * SAMPLE_RATE_HZ)
            self._voice.sent = max(0, next_block * self._system.preset.samples_per_block - left_context)
        for index in range(next_block, script.blocks):
            await self._send(index)

    async def admit(self, block: int) -> None:
        """Sends what the block needs and no other had, then the block."""
        rules = self._system.preset.stream
        if block == rules.sink_switch_block:
            own = await self._output.own_sink(self.name)
            await self._head.condition(self.name, block, ConditioningBody(sink=own))
        await self._send(block)

    async def _send(self, block: int) -> None:
        """Sends the audio that the block needs and that has not been sent, then the block."""
        rules = self._system.preset.stream
        received = (block + 1) * self._system.preset.samples_per_block + round(rules.lookahead_s * SAMPLE_RATE_HZ)
        until = received if self.script.streaming else len(self._voice.samples)
        for request in self._voice.pieces(self.name, until):
            await self._head.link.send(request)
        await self._head.admit(self.name, block)

    async def speak(self) -> None:
        """Sends all the audio that has not been sent."""
        for request in self._voice.pieces(self.name, len(self._voice.samples)):
            await self._head.link.send(request)

    async def admit_all(self, first: int = 0) -> None:
        """Admits the blocks from ``first`` on."""
        for block in range(first, self.script.blocks):
            await self.admit(block)

    async def end(self) -> None:
        """Waits for the last block and closes the session."""
        await self.until(self.script.blocks - 1)
        await self._head.close(self.name)

    async def until(self, block: int) -> None:
        """Returns when a block has come out; raises ServiceError where the session fails instead."""
        finished = asyncio.ensure_future(self._output.finished(self.name, block))
        failed = asyncio.ensure_future(self._head.failure(self.name))
        done, others = await asyncio.wait({finished, failed}, timeout=END_S, return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        if failed in done:
            raise failed.result()
        assert done, f"block {block} of {self.name} did not come out within {END_S} s"


async def play(head: Head, output: Output, system: System, scripts: Mapping[Name, Script]) -> None:
    """Plays scripts at the same time, block by block in turn, each to its end."""
    playing = [Playing(head, output, system, name, script) for name, script in scripts.items()]
    for one in playing:
        await one.open()
    for block in range(max(script.blocks for script in scripts.values())):
        for one in playing:
            if block < one.script.blocks:
                await one.admit(block)
    for one in playing:
        await one.end()
