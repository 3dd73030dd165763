"""AvatarService: takes requests apart, delegates, and puts answers together.

Knows the public API and nothing of how sessions work.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import grpc
from google.protobuf.message import Message

from live_avatar.config import SAMPLE_RATE_HZ
from live_avatar.services.gateway.access.audit import audited_call
from live_avatar.services.gateway.access.caller import current_caller, set_caller
from live_avatar.services.gateway.api import messages
from live_avatar.services.gateway.api.quota_calls import quota_header
from live_avatar.services.gateway.api.stream import Stream, first_open
from live_avatar.services.gateway.api.unopened import UnopenedStreams
from live_avatar.services.gateway.api.validation import check_create, check_message, check_update, page_size
from live_avatar.services.gateway.sessions.attachment import CLIENT_GONE
from live_avatar.services.gateway.sessions.manager import SessionManager
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.serving.errors import INTERNAL, ServiceError
from live_avatar.serving.telemetry import Telemetry
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceServicer

MAX_LISTS = 8
"""Lists that are made at the same time; each asks the store a thousand times at most."""

Context = grpc.aio.ServicerContext[Any, Any]


class AvatarServicer(AvatarServiceServicer):
    """Answers ``AvatarService``."""

    def __init__(self, manager: SessionManager, telemetry: Telemetry) -> None:
        self._manager = manager
        self._telemetry = telemetry
        self._lists = 0
        self._limits = manager.policy.limits
        self._unopened = UnopenedStreams(self._limits.max_unopened_streams, self._limits.open_timeout_seconds)

    def _check(self, request: Message) -> None:
        check_message(request, self._limits)

    async def CreateSession(self, request: api.CreateSessionRequest, context: Context) -> api.CreateSessionResponse:
        """Reserves a session."""
        self._check(request)
        check_create(request, self._limits)
        caller = current_caller()
        turn = f"{caller.tenant}/{caller.key_id}" if caller.key_id else context.peer()
        async with quota_header(context, self._manager.quotas, caller.tenant):
            record, token = await self._manager.create(caller, request, turn=turn)
        return api.CreateSessionResponse(
            session=messages.session(record), session_token=token, stream_endpoint=record.endpoint
        )

    async def GetSession(self, request: api.GetSessionRequest, context: Context) -> api.GetSessionResponse:
        """Reads one session."""
        self._check(request)
        record = await self._manager.store.get(current_caller().tenant, request.session_id)
        return api.GetSessionResponse(session=messages.session(record))

    async def ListSessions(self, request: api.ListSessionsRequest, context: Context) -> api.ListSessionsResponse:
        """Reads a page of sessions, newest first; the token of the next page is the last session on this one."""
        self._check(request)
        size = page_size(request.page_size)
        if self._lists >= MAX_LISTS:
            message = f"{MAX_LISTS} lists are being made"
            raise ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", message, retry_after_s=1.0)
        self._lists += 1
        try:
            records, more = await self._manager.store.list_page(current_caller().tenant, size, request.page_token)
        finally:
            self._lists -= 1
        return api.ListSessionsResponse(
            sessions=[messages.session(record) for record in records],
            next_page_token=records[-1].session_id if more else "",
        )

    async def CloseSession(self, request: api.CloseSessionRequest, context: Context) -> api.CloseSessionResponse:
        """Ends a session."""
        self._check(request)
        record = await self._manager.close(current_caller().tenant, request.session_id)
        return api.CloseSessionResponse(session=messages.session(record))

    async def GetServerInfo(self, request: api.GetServerInfoRequest, context: Context) -> api.GetServerInfoResponse:
        """Describes what is served; load and addresses are for the operator's tenant."""
        pipelines, shows_all = self._manager.pipelines, current_caller().is_operator
        ready = [pipeline for pipeline in pipelines if pipeline.ready]
        return api.GetServerInfoResponse(
            version=version("live-avatar"),
            preset=ready[0].preset.name if ready else "",
            limits=messages.limits(self._limits),
            sessions_open=len(self._manager) if shows_all else 0,
            session_capacity=sum(pipeline.capacity for pipeline in ready),
            samples_per_second=SAMPLE_RATE_HZ,
            frames_per_second=ready[0].preset.stream.fps if ready else 0,
            pipelines=[str(pipeline) for pipeline in pipelines] if shows_all else [],
        )

    async def StreamAvatar(  # type: ignore[override]  # gRPC takes this form too: a coroutine that writes by itself
        self, request_iterator: AsyncIterator[api.StreamAvatarRequest], context: Context
    ) -> None:
        """Carries one session's audio and video; the session ends with the stream, unless the client can resume it."""
        requests = aiter(request_iterator)
        opening = await self._unopened.first(context.peer(), first_open(requests))
        self._check(opening)
        session = await self._attach(opening.open)
        state, reason = api.Session.STATE_FAILED, CLIENT_GONE
        try:
            handles, points = self._manager.handles, self._manager.continuity.writer
            stream = Stream(session, requests, context.write, self._telemetry, handles, points)
            await stream.run(opening)
            state = api.Session.STATE_CLOSED
        except Exception as error:
            reason = _end_reason(error)
            raise
        finally:
            # A client that has gone cancels this call; what follows must not depend on it.
            self._manager.leave(session, state, reason)

    async def _attach(self, opening: api.StreamAvatarRequest.Open) -> Session:
        """The session that a token opens; its tenant is the caller's from here on."""
        caller = current_caller()
        session = await self._manager.attach(opening, caller.tenant)
        record = session.record
        set_caller(replace(caller, tenant=record.tenant, key_id=caller.key_id or record.key_id))
        audited_call().opened(record.session_id)
        return session

    async def UpdateSession(self, request: api.UpdateSessionRequest, context: Context) -> api.UpdateSessionResponse:
        """Changes the prompt of a session that streams."""
        self._check(request)
        prompt = check_update(request.config, request.update_mask.paths, self._limits)
        record, block = await self._manager.update(current_caller().tenant, request.session_id, prompt)
        return api.UpdateSessionResponse(session=messages.session(record), effective_block_index=block)

    async def InterruptSession(
        self, request: api.InterruptSessionRequest, context: Context
    ) -> api.InterruptSessionResponse:
        """Barge-in."""
        self._check(request)
        done = await self._manager.interrupt(current_caller().tenant, request.session_id, request.request_id)
        return api.InterruptSessionResponse(
            last_played_time=messages.duration(done.played_ns),
            first_clean_block_index=done.first_clean,
        )


def _end_reason(error: Exception) -> str:
    """Why a stream failed; what gRPC raises of its own is the end of the client, whatever class it has."""
    if isinstance(error, ServiceError):
        return error.reason
    return CLIENT_GONE if type(error).__module__.partition(".")[0] == "grpc" else INTERNAL
