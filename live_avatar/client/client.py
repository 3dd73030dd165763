"""The calls of a gateway, with deadlines and typed errors.

Knows the public API; nothing of files.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Self

import grpc

from live_avatar.client.channel import ApiKeySource, open_channel
from live_avatar.client.errors import AvatarError, from_rpc_error
from live_avatar.client.options import SessionOptions
from live_avatar.client.results import Interruption, ServerInfo, server_info
from live_avatar.client.resumption import RESUME_S
from live_avatar.client.stream import AvatarStream, Call
from live_avatar.late_writes import keep_last_word
from live_avatar.limits import MAX_IMAGE_BYTES
from live_avatar.provenance.facts import MediaFacts, mark_value
from live_avatar.proxies import proxy_before
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub
from live_avatar.watermark.payload import session_number

if TYPE_CHECKING:
    from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceAsyncStub

CALL_TIMEOUT_S = 5.0
LEAVE_TIMEOUT_S = 2.0
"""Of the call that ends a session whose stream was left: the gateway does so by itself, only later."""
CREATE_TIMEOUT_S = 60.0
"""Memory is reserved and the portrait encoded before the answer comes."""
_INTERRUPTIONS_KEPT = 64


class AvatarClient:
    """A gateway; an async context manager.  Calls raise AvatarError.

    Args:
        target: address as host:port; see ``parse_target`` for what else is taken.
        credentials: for TLS; None: plain text.
        api_key: API key or token of an OpenID Connect provider, or a function that returns the current one and may be
            asynchronous; None: none.
        insecure: send ``api_key`` in plain text to other machines too.

    Raises:
        ValueError: ``target`` is no address, or ``api_key`` would cross a network in plain text.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        api_key: ApiKeySource | None = None,
        insecure: bool = False,
    ) -> None:
        self.target, self._channel = open_channel(target, credentials, api_key, insecure=insecure)
        self._stub = AvatarServiceStub(self._channel)

    @property
    def channel(self) -> grpc.aio.Channel:
        """The connection, for calls of other services of the gateway."""
        return self._channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all calls.  Idempotent."""
        await self._channel.close()

    async def server_info(self) -> ServerInfo:
        """What the gateway serves, and its limits."""
        with typed_errors(self.target):
            return server_info(await self._stub.GetServerInfo(api.GetServerInfoRequest(), timeout=CALL_TIMEOUT_S))

    async def create_session(self, image: bytes, options: SessionOptions, *, request_id: str = "") -> "Session":
        """Reserves a session that shows ``image``, a JPEG, PNG, WebP, HEIC or AVIF file.

        Args:
            image: the portrait.
            options: everything else.
            request_id: a second call with the same one gives the same session; empty: a fresh one.

        Raises:
            AvatarError: the gateway refuses; IMAGE_TOO_LARGE, before anything is sent, where the file has more bytes
                than it publishes.
        """
        await self._check_size(image)
        request = api.CreateSessionRequest(
            request_id=request_id or str(uuid.uuid4()), reference_image=image, config=options.to_message()
        )
        with typed_errors(self.target):
            response = await self._stub.CreateSession(request, timeout=CREATE_TIMEOUT_S)
        return Session(self._stub, response, options)

    async def _check_size(self, image: bytes) -> None:
        """Refuses what is too large for a message: gRPC would say so in its own words, after it has crossed."""
        if len(image) <= MAX_IMAGE_BYTES:
            return
        most = (await self.server_info()).limits.max_image_bytes
        if most and len(image) > most:
            message = f"the image has {len(image)} bytes, the gateway takes at most {most}"
            facts = {"max_image_bytes": str(most)}
            raise AvatarError(grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_TOO_LARGE", message, facts)


class Session:
    """A session that is reserved until it is closed, idle for too long, or its stream has ended."""

    def __init__(
        self, stub: "AvatarServiceAsyncStub", created: api.CreateSessionResponse, options: SessionOptions
    ) -> None:
        self._stub = stub
        self._token = created.session_token
        self._options = options
        self._open_stream: AvatarStream | None = None
        self._interrupted: deque[str] = deque(maxlen=_INTERRUPTIONS_KEPT)
        """Request ids that the stream has reported."""
        self.session_id = created.session.session_id
        self.facts = media_facts(created.session)
        """What is known of the media that it makes."""

    @asynccontextmanager
    async def stream(self, *, resume: bool = True, resume_s: float = RESUME_S) -> AsyncIterator[AvatarStream]:
        """Opens the media stream; on exit the call is over, and with it the session.

        Args:
            resume: a stream that breaks is resumed while it is iterated over; its results ``StreamLost`` and
                ``StreamResumed`` say so.  False: the session ends with its stream.
            resume_s: for how long that is tried; a gateway ends the session after ``Limits.resume_timeout_s``.
        """
        stream = AvatarStream(self._connect, self._options, resume=resume, resume_s=resume_s)
        try:
            await stream.open(self._token)
            self._open_stream = stream
            yield stream
        finally:
            if self._open_stream is stream:
                self._open_stream = None
            await stream.close()
            if stream.outlives_call:
                with suppress(AvatarError):  # a gateway that is gone ends it by itself
                    await self._close(LEAVE_TIMEOUT_S)

    def _connect(self) -> Call:
        call = self._stub.StreamAvatar()
        keep_last_word(call)
        return call

    async def interrupt(self, *, request_id: str = "") -> Interruption:
        """Barge-in without the stream at hand; see ``LiveStream.interrupt``.

        Where a stream of this object is open, what it sends next is a new utterance.

        Args:
            request_id: a second call with the same one changes nothing and gets the same answer; empty: a fresh one.
        """
        request_id = request_id or str(uuid.uuid4())
        await self._interrupt_stream(request_id)
        request = api.InterruptSessionRequest(session_id=self.session_id, request_id=request_id)
        with typed_errors():
            response = await self._stub.InterruptSession(request, timeout=CALL_TIMEOUT_S)
        return Interruption(
            last_played_ns=response.last_played_time.ToNanoseconds(),
            first_clean_block=response.first_clean_block_index,
        )

    async def _interrupt_stream(self, request_id: str) -> None:
        """Takes back speech that is on its way in our own stream; the server knows both as one interruption."""
        stream, live = self._open_stream, self._options.delivery == "live"
        if stream is None or not live or request_id in self._interrupted:
            return
        self._interrupted.append(request_id)
        with suppress(AvatarError, TimeoutError):  # the call that follows says what is wrong
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await stream.interrupt(request_id=request_id)

    async def change_prompt(self, prompt: str) -> int:
        """Changes the prompt of a session that streams; returns the first block it holds for."""
        request = api.UpdateSessionRequest(session_id=self.session_id, config=api.SessionConfig(prompt=prompt))
        request.update_mask.paths.append("prompt")
        with typed_errors():
            response = await self._stub.UpdateSession(request, timeout=CALL_TIMEOUT_S)
        return response.effective_block_index

    async def close(self) -> None:
        """Ends the session and frees its memory.  Idempotent."""
        await self._close(CALL_TIMEOUT_S)

    async def _close(self, timeout_s: float) -> None:
        request = api.CloseSessionRequest(session_id=self.session_id)
        with typed_errors():
            await self._stub.CloseSession(request, timeout=timeout_s)


def media_facts(session: api.Session) -> MediaFacts:
    """What the gateway says of a session's media."""
    provenance = session.provenance
    marked = provenance.HasField("watermark_deployment")
    return MediaFacts(
        session_id=session.session_id,
        model_digest=provenance.model_digest,
        mark=mark_value(provenance.watermark_deployment, session_number(session.session_id)) if marked else "",
    )


@contextmanager
def typed_errors(target: str = "") -> Iterator[None]:
    """Failed calls within raise AvatarError; where ``target`` is given it names the proxy that stood before that."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, proxy_before(target) if target else None) from None
