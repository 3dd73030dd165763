"""The calls about quotas, and what CreateSession reports of them.

Translates between the public API and the store's quotas.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor

from live_avatar.services.gateway.access.caller import TENANT_PATTERN, Scope, current_caller
from live_avatar.services.gateway.quotas.book import QuotaBook
from live_avatar.services.gateway.refusals import refuse
from live_avatar.services.gateway.store.quotas import Quotas
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import admin_service_pb2 as admin

QUOTA_HEADER = "live-avatar-quota-remaining"
"""Metadata of CreateSession's answer: ``NAME=LEFT``, with a comma between two; names as the fields of ``Quotas``."""
_TENANT = re.compile(TENANT_PATTERN)
_MOST = {FieldDescriptor.TYPE_UINT32: 2**32 - 1, FieldDescriptor.TYPE_UINT64: 2**53}
_FIELDS = admin.Quotas.DESCRIPTOR.fields_by_name

Context = grpc.aio.ServicerContext[Any, Any]


@asynccontextmanager
async def quota_header(context: Context, book: QuotaBook, tenant: str) -> AsyncIterator[None]:
    """Reports what is left of the tenant's quotas after the body, which creates a session.

    In initial metadata, or in trailing metadata where the body finds too much in use; absent where nothing is limited.
    """
    try:
        yield
    except ServiceError as error:
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            context.set_trailing_metadata(await _header(book, tenant))
        raise
    header = await _header(book, tenant)
    if header:
        await context.send_initial_metadata(header)


async def _header(book: QuotaBook, tenant: str) -> tuple[tuple[str, str], ...]:
    left = await book.left(tenant)
    return ((QUOTA_HEADER, ",".join(f"{name}={value}" for name, value in left.items())),) if left else ()


async def get_quotas(book: QuotaBook, request: admin.GetQuotasRequest) -> admin.GetQuotasResponse:
    """Answers ``GetQuotas``.

    Raises:
        ServiceError: PERMISSION_DENIED, INVALID_ARGUMENT, or the store does not answer.
    """
    caller = current_caller()
    caller.require(Scope.ADMIN)
    tenant = check_tenant(caller.tenant_of(request.tenant))
    quotas, used = await book.read(tenant), await book.use(tenant)
    usage = admin.QuotaUsage(
        concurrent_sessions=used.concurrent_sessions,
        sessions_this_minute=used.sessions_this_minute,
        media_milliseconds_today=used.media_ms_today,
        media_milliseconds_this_month=used.media_ms_this_month,
    )
    return admin.GetQuotasResponse(quotas=_message(quotas), usage=usage)


async def update_quotas(book: QuotaBook, request: admin.UpdateQuotasRequest) -> admin.UpdateQuotasResponse:
    """Answers ``UpdateQuotas``; raises like ``get_quotas``."""
    caller = current_caller()
    caller.require(Scope.ADMIN)
    if not request.tenant:
        refuse("TENANT_INVALID", "the request names no tenant", "tenant")
    tenant = check_tenant(caller.tenant_of(request.tenant))
    if not caller.is_operator:
        message = "quotas are changed by callers of the operator's tenant alone"
        raise ServiceError(grpc.StatusCode.PERMISSION_DENIED, "TENANT_FORBIDDEN", message, field="tenant")
    quotas = await book.update(tenant, _values(request))
    return admin.UpdateQuotasResponse(quotas=_message(quotas))


def check_tenant(tenant: str) -> str:
    """``tenant``, where it can be the name of one; raises ServiceError INVALID_ARGUMENT otherwise."""
    if not _TENANT.fullmatch(tenant):
        refuse("TENANT_INVALID", "a tenant has 1 to 63 characters of a-z, 0-9 and -", "tenant")
    return tenant


def _values(request: admin.UpdateQuotasRequest) -> Mapping[str, int]:
    """The new numbers."""
    names = list(request.update_mask.paths) or list(_FIELDS)
    for name in names:
        if name not in _FIELDS:
            refuse("QUOTA_UNKNOWN", f"there is no quota called {name[:64]}", "update_mask")
    values = {name: getattr(request.quotas, name) for name in names}
    for name, value in values.items():
        if value > _MOST[_FIELDS[name].type]:
            refuse("QUOTA_UNKNOWN", f"{name} is too large", f"quotas.{name}")
    return values


def _message(quotas: Quotas) -> admin.Quotas:
    return admin.Quotas(**asdict(quotas))
