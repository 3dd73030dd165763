"""Registry of the gateways that receive video: one stream per gateway, carrying all its sessions.

All methods but ``post``, ``unsubscribe_threadsafe`` and ``wants_finished_blocks`` belong to the event loop.  Knows keys
and messages; knows nothing of frames.
"""

import asyncio
from dataclasses import dataclass, field

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.keys import key_name

MAX_WAITING = 64
"""Messages of one session that its gateway has not taken; a session with more has failed."""
MAX_SUBSCRIPTIONS = 4096
"""Of one gateway."""
MAX_UNREAD = 8192
"""Messages that wait on one stream when another session is asked for."""


@dataclass(eq=False)
class VideoStream:
    """One gateway's stream: messages on their way out, and the sessions they may belong to."""

    keys: set[tuple[str, int]] = field(default_factory=set)
    outbox: asyncio.Queue[tuple["_Subscription | None", StreamVideoResponse]] = field(default_factory=asyncio.Queue)

    async def next(self, timeout_s: float) -> StreamVideoResponse | None:
        """The next message to write, None if there is none for ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                subscription, response = await self.outbox.get()
        except TimeoutError:
            return None
        if subscription is not None:
            subscription.waiting -= 1
        return response


@dataclass(eq=False)
class _Subscription:
    """One session on one stream."""

    stream: VideoStream
    finished_blocks: bool
    waiting: int = 0
    overflown: bool = False


class SubscriberRegistry:
    """Registers which gateway receives the video of each session."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._subscriptions: dict[tuple[str, int], _Subscription] = {}

    def __len__(self) -> int:
        return len(self._subscriptions)

    def subscribe(self, key: SessionKey, stream: VideoStream, *, finished_blocks: bool = False) -> None:
        """Sends the video of a session to ``stream`` from now on, whoever received it before.

        Args:
            key: of the session.
            stream: of the gateway.
            finished_blocks: whether it receives the finished blocks too.

        Raises:
            ServiceError: the stream has too many sessions, or leaves too many answers unread.
        """
        if stream.outbox.qsize() >= MAX_UNREAD:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", f"the gateway left {MAX_UNREAD} messages unread"
            )
        if len(stream.keys) >= MAX_SUBSCRIPTIONS:
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "CAPACITY_EXHAUSTED",
                f"a stream has at most {MAX_SUBSCRIPTIONS} sessions",
            )
        self.unsubscribe(key)
        subscription = _Subscription(stream, finished_blocks)
        self._subscriptions[key_name(key)] = subscription
        stream.keys.add(key_name(key))
        stream.outbox.put_nowait((None, StreamVideoResponse(subscribed=StreamVideoResponse.Subscribed(key=key))))

    def unsubscribe(self, key: SessionKey) -> None:
        """Removes a session; messages that are queued for it are still written."""
        subscription = self._subscriptions.pop(key_name(key), None)
        if subscription is not None:
            subscription.stream.keys.discard(key_name(key))

    def unsubscribe_stream(self, stream: VideoStream) -> list[SessionKey]:
        """Removes a stream; returns the keys of its sessions, which no gateway receives any more."""
        keys = [SessionKey(session_id=session_id, epoch=epoch) for session_id, epoch in sorted(stream.keys)]
        for key in keys:
            self.unsubscribe(key)
        return keys

    def deliver(self, key: SessionKey, response: StreamVideoResponse) -> None:
        """Queues a message of a session for its gateway.

        Raises:
            ServiceError: VIDEO_UNCLAIMED where no gateway has subscribed, SLOW_CONSUMER where too many messages wait.
        """
        subscription = self._subscriptions.get(key_name(key))
        if subscription is None:
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "VIDEO_UNCLAIMED",
                "no gateway has subscribed to the session's video",
            )
        if subscription.overflown or subscription.waiting >= MAX_WAITING:
            # A gap cannot be repaired by later messages.
            subscription.overflown = True
            raise ServiceError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER", f"the gateway left {MAX_WAITING} messages unread"
            )
        subscription.waiting += 1
        subscription.stream.outbox.put_nowait((subscription, response))

    def wants_finished_blocks(self, key: SessionKey) -> bool:
        """Whether the gateway of a session receives its finished blocks, from any thread."""
        subscription = self._subscriptions.get(key_name(key))
        return subscription is not None and subscription.finished_blocks

    def unsubscribe_threadsafe(self, key: SessionKey) -> None:
        """``unsubscribe``, from any thread."""
        self._loop.call_soon_threadsafe(self.unsubscribe, key)

    def post(self, key: SessionKey, response: StreamVideoResponse) -> None:
        """Queues a message ahead of the end of its block, from any thread.

        Nothing is raised: what hinders this message hinders the block's last one too.
        """
        self._loop.call_soon_threadsafe(self._try_deliver, key, response)

    def _try_deliver(self, key: SessionKey, response: StreamVideoResponse) -> None:
        subscription = self._subscriptions.get(key_name(key))
        if subscription is None:
            return
        if subscription.waiting >= MAX_WAITING:
            subscription.overflown = True
        if not subscription.overflown:
            self.deliver(key, response)
