"""Callers of a gateway that authenticates them: each process finds its API key in its environment."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc

from live_avatar.launcher.child import Program
from live_avatar.launcher.pipeline import GATEWAY, LocalPipeline
from live_avatar.v1.admin_service_pb2 import CreateApiKeyRequest
from live_avatar.v1.admin_service_pb2_grpc import AdminServiceStub

VARIABLE = "LIVE_AVATAR_ABUSE_KEY"


class WithKey(grpc.aio.UnaryUnaryClientInterceptor):
    """Sends the process's API key with every unary call that has no metadata of its own."""

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        """See the class."""
        call = client_call_details
        key = grpc.aio.Metadata(("authorization", f"Bearer {os.environ[VARIABLE]}"))
        metadata = call.metadata or key
        details = grpc.aio.ClientCallDetails(call.method, call.timeout, metadata, call.credentials, call.wait_for_ready)
        return await continuation(details, request)


def connect(target: str) -> grpc.aio.Channel:
    """A connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(target, options=options, interceptors=[WithKey()])


class GuardedPipeline(LocalPipeline):
    """All services, with a gateway that knows its callers by API keys; ``plan.api_key`` is the operator's."""

    @property
    def operator_key(self) -> str:
        """API key of the operator."""
        return self._plan.api_key

    def _programs(self) -> list[tuple[Program, int]]:
        keys = ("--auth.mode", "keys", "--auth.bootstrap-key", self._plan.api_key)
        return [
            (replace(program, flags=(*program.flags, *keys)) if program.name == GATEWAY else program, port)
            for program, port in super()._programs()
        ]


def make_key(target: str, operator_key: str, tenant: str) -> str:
    """A new API key of a tenant, which may use sessions."""
    with grpc.insecure_channel(target) as channel:
        request = CreateApiKeyRequest(tenant=tenant, scopes=["sessions"])
        made = AdminServiceStub(channel).CreateApiKey(
            request, metadata=(("authorization", f"Bearer {operator_key}"),), timeout=10
        )
    return made.secret
