"""Calls about tenants: their quotas, and the records of what they have used.

Knows the public API; nothing of how results are shown.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime

from live_avatar.client.client import CALL_TIMEOUT_S, AvatarClient, typed_errors
from live_avatar.v1 import admin_service_pb2 as admin
from live_avatar.v1 import usage_service_pb2 as usage
from live_avatar.v1.admin_service_pb2_grpc import AdminServiceStub
from live_avatar.v1.usage_service_pb2_grpc import UsageServiceStub

_PAGE = 1_000
ALL_TENANTS = "*"


async def list_usage(
    client: AvatarClient, tenant: str = "", since: datetime | None = None, until: datetime | None = None
) -> AsyncIterator[Sequence[usage.UsageRecord]]:
    """Pages of usage records, oldest first; raises AvatarError.

    Args:
        client: of a gateway.
        tenant: whose; empty: the caller's own; ``*``: all, for the operator.
        since: time of the first record; None: all that are kept.
        until: time after the last record; None: up to now.
    """
    request = usage.ListUsageRequest(tenant=tenant, page_size=_PAGE)
    if since is not None:
        request.start_time.FromDatetime(since)
    if until is not None:
        request.end_time.FromDatetime(until)
    stub = UsageServiceStub(client.channel)
    while True:
        with typed_errors(client.target):
            page = await stub.ListUsage(request, timeout=CALL_TIMEOUT_S)
        yield page.records
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def get_quotas(client: AvatarClient, tenant: str = "") -> admin.GetQuotasResponse:
    """The quotas of a tenant, and what it has used; empty: of the caller's own.  Raises AvatarError."""
    with typed_errors(client.target):
        request = admin.GetQuotasRequest(tenant=tenant)
        return await AdminServiceStub(client.channel).GetQuotas(request, timeout=CALL_TIMEOUT_S)


async def update_quotas(client: AvatarClient, tenant: str, values: Mapping[str, int]) -> admin.Quotas:
    """Changes the quotas that ``values`` names; returns all that hold now.  Raises AvatarError."""
    request = admin.UpdateQuotasRequest(tenant=tenant, quotas=admin.Quotas(**values))
    request.update_mask.paths.extend(values)
    with typed_errors(client.target):
        response = await AdminServiceStub(client.channel).UpdateQuotas(request, timeout=CALL_TIMEOUT_S)
    return response.quotas
