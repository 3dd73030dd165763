"""AdminService: quotas of tenants.

Takes requests apart and delegates.
"""

from typing import Any

import grpc

from live_avatar.services.gateway.api import quota_calls
from live_avatar.services.gateway.api.validation import check_message
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.quotas.book import QuotaBook
from live_avatar.services.gateway.refusals import not_yet_served
from live_avatar.v1 import admin_service_pb2 as admin
from live_avatar.v1.admin_service_pb2_grpc import AdminServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(AdminServiceServicer):
    """Answers ``AdminService``.

    Args:
        quotas: of all tenants.
        limits: on what requests hold.
    """

    def __init__(self, quotas: QuotaBook, limits: Limits) -> None:
        self._quotas = quotas
        self._limits = limits

    async def GetQuotas(self, request: admin.GetQuotasRequest, context: Context) -> admin.GetQuotasResponse:
        """Reads the quotas of a tenant, and what it has used."""
        check_message(request, self._limits)
        return await quota_calls.get_quotas(self._quotas, request)

    async def UpdateQuotas(self, request: admin.UpdateQuotasRequest, context: Context) -> admin.UpdateQuotasResponse:
        """Changes quotas of a tenant."""
        check_message(request, self._limits)
        return await quota_calls.update_quotas(self._quotas, request)

    async def CreateApiKey(self, request: admin.CreateApiKeyRequest, context: Context) -> admin.CreateApiKeyResponse:
        """Is not served by this version."""
        raise not_yet_served("CreateApiKey")

    async def ListApiKeys(self, request: admin.ListApiKeysRequest, context: Context) -> admin.ListApiKeysResponse:
        """Is not served by this version."""
        raise not_yet_served("ListApiKeys")

    async def RevokeApiKey(self, request: admin.RevokeApiKeyRequest, context: Context) -> admin.RevokeApiKeyResponse:
        """Is not served by this version."""
        raise not_yet_served("RevokeApiKey")
