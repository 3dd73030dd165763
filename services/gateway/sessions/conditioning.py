"""What the blocks of one session are conditioned on, and what of it is down, on its way, or due.

The portrait comes first, then the model's own first latent.  Of new prompts at most one waits, whatever the client
sends, and at most one goes down per admitted block, so that a session costs the text encoder no more than its share.
Knows nothing of streams or pipelines.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from live_avatar.gateway.v1.recovery_point_pb2 import ConditioningState, SentPrompt
from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, Sink
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

MAX_WAITING_CALLS = 16
"""Calls of one session that may wait for their change to go down."""
_PROMPTS_KEPT = 64
"""Changes that are remembered, at most one per block: more than a window and all blocks on their way."""
IDLE_PERIOD_S = 1.0
"""A second change of the same block may follow after so long: while no block is admitted, one must not wait for it."""


@dataclass(frozen=True)
class Update:
    """A new prompt on its way."""

    prompt: str
    applied: "asyncio.Future[int]"
    """First block it holds for."""


class Prompts:
    """Changes of ``config.prompt``; all calls from one event loop.

    Args:
        config: of the session; its prompt is always the one that holds from the next block on.
        applied: called with the first block of each change.
    """

    def __init__(self, config: api.SessionConfig, applied: Callable[[int], None]) -> None:
        self._config = config
        self._note_applied = applied
        self._composed = False
        self._pending: Update | None = None
        self._sent_block = -1
        self._sent_at = 0.0
        self._calls = 0
        self._history: deque[tuple[int, str]] = deque(maxlen=_PROMPTS_KEPT)
        """Prompts that were sent down, with the first block of each; blocks never go back."""

    def compose(self) -> str:
        """The prompt of the first conditioning, which is sent now; later changes need a conditioning of their own."""
        self._composed = True
        self._note_sent(0, self._config.prompt)
        return self._config.prompt

    def sent_since(self, block: int) -> list[tuple[int, str]]:
        """What was sent down: the prompt that holds for ``block``, and those after it, with their first blocks."""
        if not self._history:
            return [(0, self.compose())]
        history = list(self._history)
        while len(history) > 1 and history[1][0] <= block:
            history.pop(0)
        return history

    def snapshot(self, state: ConditioningState, block: int) -> None:
        """Adds to ``state`` the prompts that ``block`` and later ones need."""
        state.prompt = self._config.prompt
        if self._composed:
            sent = self.sent_since(block)
            state.sent.extend(SentPrompt(block=first, prompt=prompt) for first, prompt in sent)
        if self._pending is not None:
            state.has_pending, state.pending = True, self._pending.prompt

    def restore(self, state: ConditioningState) -> None:
        """Makes it what ``snapshot`` was made of; calls that waited are lost with their gateway."""
        self._config.prompt = state.prompt
        self._history.extend((one.block, one.prompt) for one in state.sent)
        self._composed = bool(state.sent)
        if state.has_pending:
            self._pending = Update(state.pending, asyncio.get_running_loop().create_future())

    def first_block(self, block: int) -> int:
        """The first block that a change sent now can hold for: ``block``, or that of the change before it."""
        return max(block, self._history[-1][0] if self._history else 0)

    def ask(self, prompt: str, block: int) -> "asyncio.Future[int]":
        """Asks for ``prompt`` in place of whatever waits; ``block`` is the next to be admitted.

        Returns:
            The first block that the newest prompt holds for, once it is known; one answer for all who asked since the
            last change went down.
        """
        applied = self._pending.applied if self._pending else asyncio.get_running_loop().create_future()
        self._pending = Update(prompt, applied)
        if not self._composed or prompt == self._config.prompt:
            self._config.prompt = prompt
            self.apply(self._pending, block)
            self._pending = None
        return applied

    def due(self, block: int) -> bool:
        """Whether a change may go down before ``block``, the next to be admitted."""
        if self._pending is None or not self._composed:
            return False
        return block > self._sent_block or time.monotonic() - self._sent_at >= IDLE_PERIOD_S

    def take(self, block: int) -> Update | None:
        """The change to send down before ``block``; ``sent`` or ``put_back`` follows; None: it is needless by now."""
        update, self._pending = self._pending, None
        if update is not None:
            self._config.prompt = update.prompt
            self._sent_block, self._sent_at = block, time.monotonic()
        return update

    def sent(self, update: Update, block: int) -> None:
        """``update`` went down, and holds from ``block`` on."""
        self._note_sent(block, update.prompt)
        self.apply(update, block)

    def put_back(self, update: Update) -> None:
        """``update`` did not go down after all: it waits again, or whatever came after it waits in its place."""
        if self._pending is None:
            self._pending = update
            return
        self._pending.applied.add_done_callback(lambda later: _answer(update.applied, later))

    def apply(self, update: Update, block: int) -> None:
        """``update`` holds from ``block`` on."""
        self._note_applied(block)
        if not update.applied.done():
            update.applied.set_result(block)

    def _note_sent(self, block: int, prompt: str) -> None:
        if self._history and self._history[-1][0] == block:
            self._history.pop()
        self._history.append((block, prompt))

    @contextmanager
    def waiting_call(self) -> Iterator[None]:
        """The place of a call that waits for its change.

        Raises:
            ServiceError: RESOURCE_EXHAUSTED; too many wait.
        """
        if self._calls >= MAX_WAITING_CALLS:
            message = f"{MAX_WAITING_CALLS} updates of this session wait already"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", message, retry_after_s=1.0)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1


class Conditioning:
    """Sinks and prompt of one session.

    Args:
        prompts: of the session.
        switch_block: first block that needs the model's own first latent as its sink.
    """

    def __init__(self, prompts: Prompts, switch_block: int) -> None:
        self.prompts = prompts
        self.switch_block = switch_block
        self._ready = False
        self._first_sink: Sink | None = None
        self._new_sink: bytes | None = None
        self._own: tuple[int, Sink] | None = None
        """The model's own first latent as it was sent down, and its first block."""
        self._switched = False
        self.portrait = b""
        """The client's image, until its sink is there."""

    @property
    def has_portrait(self) -> bool:
        """Sink version 0 is there."""
        return self._first_sink is not None

    @property
    def has_sink(self) -> bool:
        """The model's own first latent is there and was not sent down."""
        return self._new_sink is not None

    def has_update(self, block: int) -> bool:
        """A new prompt may go down before ``block``, the next to be admitted."""
        return self._ready and self.prompts.due(block)

    def is_due(self, block: int) -> bool:
        """Something may go down before ``block``, the next to be admitted."""
        return self._new_sink is not None or (self._ready and self.prompts.due(block))

    def allows(self, block: int) -> bool:
        """Everything that ``block`` is conditioned on is on its way."""
        return self._ready and (block < self.switch_block or self._switched)

    def take_portrait(self, image: bytes) -> None:
        """Keeps the client's image until its sink is there."""
        self.portrait = image

    def portrait_encoded(self, sink: Sink) -> None:
        """Takes sink version 0."""
        self._first_sink, self.portrait = sink, b""

    def first_body(self) -> ConditioningBody:
        """What goes down before block 0."""
        return ConditioningBody(sink=self._first_sink, prompt=self.prompts.compose())

    @property
    def first_sink(self) -> bytes:
        """Sink version 0, serialized; empty while there is none."""
        return self._first_sink.SerializeToString() if self._first_sink is not None else b""

    @property
    def own_sink(self) -> bytes:
        """The model's own first latent, as a serialized sink; empty while there is none."""
        return self._own[1].SerializeToString() if self._own is not None else self._new_sink or b""

    def snapshot(self, block: int) -> ConditioningState:
        """What ``block`` and later ones need, without both sinks."""
        state = ConditioningState(has_own_sink=bool(self.own_sink), own_sink_sent=self._own is not None)
        state.own_sink_block = self._own[0] if self._own is not None else 0
        self.prompts.snapshot(state, block)
        return state

    def restore(self, state: ConditioningState, first: bytes, own: bytes) -> None:
        """Makes it what ``snapshot`` was made of; nothing is down.

        Args:
            state: the snapshot.
            first: sink version 0, serialized.
            own: the model's own first latent, serialized.

        Raises:
            DecodeError: one of them is no sink.
        """
        self._ready, self._first_sink = False, Sink.FromString(first)
        if state.own_sink_sent:
            self._own, self._switched = (state.own_sink_block, Sink.FromString(own)), True
        elif state.has_own_sink:
            self._new_sink = own
        self.prompts.restore(state)

    def rewind(self, block: int) -> None:
        """Nothing is down any more, and ``block`` is the next to be admitted."""
        self._ready = False
        if block == 0:
            self._new_sink, self._own, self._switched = None, None, False

    def bodies_since(self, block: int) -> list[tuple[int, ConditioningBody]]:
        """Everything that was sent down and that ``block`` or a later one needs, with its first block, in order."""
        (first, prompt), *changes = self.prompts.sent_since(block)
        bodies = [(min(first, block), ConditioningBody(sink=self._first_sink, prompt=prompt))]
        if self._own is not None:
            bodies.append((self._own[0], ConditioningBody(sink=self._own[1])))
        return bodies + [(at, ConditioningBody(prompt=changed)) for at, changed in changes]

    def portrait_sent(self) -> None:
        """Sink version 0 and the prompt are on their way now."""
        self._ready = True

    def receive_sink(self, data: bytes) -> None:
        """Takes the model's own first latent, a serialized sink."""
        self._new_sink = data

    def new_sink(self) -> bytes:
        """What is to be sent down; only where there is one."""
        assert self._new_sink is not None, "a sink is sent only where one came"
        return self._new_sink

    def sink_sent(self, block: int, sink: Sink) -> None:
        """The model's own first latent is on its way now and holds from ``block`` on."""
        self._new_sink, self._own, self._switched = None, (block, sink), True


def _answer(waiting: "asyncio.Future[int]", later: "asyncio.Future[int]") -> None:
    """Gives those who wait for a change the answer of the one that replaced it."""
    if not waiting.done() and not later.cancelled():
        waiting.set_result(later.result())
