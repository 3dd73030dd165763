"""UsageService: pages of usage records.

Knows the public API and the store's stream of records.
"""

from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from live_avatar.services.gateway.access.caller import Scope, current_caller
from live_avatar.services.gateway.api.places import Turns
from live_avatar.services.gateway.api.quota_calls import check_tenant
from live_avatar.services.gateway.api.validation import check_message
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.refusals import INVALID
from live_avatar.services.gateway.store.usage import UsageLog, check_position
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import usage_service_pb2 as usage
from live_avatar.v1.usage_service_pb2_grpc import UsageServiceServicer

ALL_TENANTS = "*"
DEFAULT_PAGE, LARGEST_PAGE = 100, 1_000
_READ_TOGETHER = 200
"""Records that are read at once: a few milliseconds, in which nothing else runs."""
_MOST_READS = 50
"""Questions that one call asks the store: a page may be short, or empty, though more follow."""
MAX_LISTS = 2
"""Pages that are put together at the same time, of different tenants; further ones wait."""
_LATEST_MS = 2**53
_MS_PER_S = 1000

Context = grpc.aio.ServicerContext[Any, Any]


class UsageServicer(UsageServiceServicer):
    """Answers ``UsageService``.

    Args:
        log: of all records.
        limits: on what requests hold.
    """

    def __init__(self, log: UsageLog, limits: Limits) -> None:
        self._log = log
        self._limits = limits
        self._turns = Turns(MAX_LISTS)

    async def ListUsage(self, request: usage.ListUsageRequest, context: Context) -> usage.ListUsageResponse:
        """Reads a page of records, oldest first."""
        check_message(request, self._limits)
        caller = current_caller()
        caller.require(Scope.USAGE)
        tenant = caller.tenant_of(request.tenant)
        if tenant != ALL_TENANTS:
            check_tenant(tenant)
        if request.page_size < 0:
            message = f"page_size {request.page_size} is negative"
            raise ServiceError(INVALID, "PAGE_SIZE_OUT_OF_RANGE", message, field="page_size")
        size = min(request.page_size or DEFAULT_PAGE, LARGEST_PAGE)
        async with self._turns.one(caller.tenant):
            return await self._page(request, tenant, size)

    async def _page(self, request: usage.ListUsageRequest, tenant: str, size: int) -> usage.ListUsageResponse:
        """At most ``size`` records of a tenant, from as many records of all as one call may read."""
        response = usage.ListUsageResponse()
        position = check_position(request.page_token)
        since_ms = _milliseconds(request.start_time)
        until_ms = _milliseconds(request.end_time) if request.HasField("end_time") else _LATEST_MS
        for _ in range(_MOST_READS):
            read = await self._log.read_entries(position, since_ms, _READ_TOGETHER)
            for position, entry in read:
                if entry.time_ms >= until_ms:
                    return response
                if tenant in (ALL_TENANTS, entry.tenant):
                    response.records.append(entry.record())
                if len(response.records) == size:
                    response.next_page_token = position
                    return response
            if len(read) < _READ_TOGETHER:
                return response
        response.next_page_token = position
        return response


def _milliseconds(time: Timestamp) -> int:
    """Since 1970, rounded up; what lies beyond the range of the stream is put at its edge."""
    milliseconds = time.seconds * _MS_PER_S + -(-time.nanos // 1_000_000)
    return min(max(0, milliseconds), _LATEST_MS)
