"""AdminService: API keys and quotas of tenants.

Translates and delegates; who may do what is decided where keys and quotas are.
"""

from typing import Any

import grpc
from google.protobuf.message import Message

from live_avatar.services.gateway.access.caller import current_caller
from live_avatar.services.gateway.access.key_admin import KeyAdmin
from live_avatar.services.gateway.access.key_records import ApiKeyRecord
from live_avatar.services.gateway.api import quota_calls
from live_avatar.services.gateway.api.places import Turns
from live_avatar.services.gateway.api.validation import check_message, page_size
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.quotas.book import QuotaBook
from live_avatar.services.gateway.refusals import refuse
from live_avatar.v1 import admin_service_pb2 as api
from live_avatar.v1.admin_service_pb2_grpc import AdminServiceServicer

MAX_KEY_NAME_CHARACTERS = 100
MAX_LISTS = 2
"""Pages of keys that are put together at the same time, of different tenants; further ones wait."""

Context = grpc.aio.ServicerContext[Any, Any]


class AdminServicer(AdminServiceServicer):
    """Answers ``AdminService``.

    Args:
        keys: manages API keys.
        quotas: of all tenants.
        limits: on what requests hold.
    """

    def __init__(self, keys: KeyAdmin, quotas: QuotaBook, limits: Limits) -> None:
        self._keys = keys
        self._limits = limits
        self._quotas = quotas
        self._turns = Turns(MAX_LISTS)

    def _check(self, request: Message) -> None:
        check_message(request, self._limits)

    async def CreateApiKey(self, request: api.CreateApiKeyRequest, context: Context) -> api.CreateApiKeyResponse:
        """Creates a key, whose secret nothing but this answer holds."""
        self._check(request)
        if len(request.name) > MAX_KEY_NAME_CHARACTERS:
            refuse("NAME_TOO_LONG", f"a name has at most {MAX_KEY_NAME_CHARACTERS} characters", "name")
        lifetime_ms = -(-request.lifetime.ToNanoseconds() // 1_000_000)
        if request.HasField("lifetime") and not lifetime_ms:
            refuse("DURATION_OUT_OF_RANGE", "lifetime must be positive; leave it out for a key without end", "lifetime")
        record, key = await self._keys.create(
            current_caller(), request.tenant, request.scopes, request.name, lifetime_ms
        )
        return api.CreateApiKeyResponse(api_key=api_key(record), secret=key.text)

    async def ListApiKeys(self, request: api.ListApiKeysRequest, context: Context) -> api.ListApiKeysResponse:
        """Reads a page of keys, newest first; the token of the next page is the last key on this one."""
        self._check(request)
        size = page_size(request.page_size)
        caller = current_caller()
        async with self._turns.one(caller.tenant):
            records, more = await self._keys.list_page(caller, request.tenant, size, request.page_token)
        next_page_token = records[-1].key_id if more and records else ""
        return api.ListApiKeysResponse(api_keys=map(api_key, records), next_page_token=next_page_token)

    async def RevokeApiKey(self, request: api.RevokeApiKeyRequest, context: Context) -> api.RevokeApiKeyResponse:
        """Revokes a key."""
        self._check(request)
        return api.RevokeApiKeyResponse(api_key=api_key(await self._keys.revoke(current_caller(), request.key_id)))

    async def GetQuotas(self, request: api.GetQuotasRequest, context: Context) -> api.GetQuotasResponse:
        """Reads the quotas of a tenant, and what it has used."""
        self._check(request)
        return await quota_calls.get_quotas(self._quotas, request)

    async def UpdateQuotas(self, request: api.UpdateQuotasRequest, context: Context) -> api.UpdateQuotasResponse:
        """Changes quotas of a tenant."""
        self._check(request)
        return await quota_calls.update_quotas(self._quotas, request)


def api_key(record: ApiKeyRecord) -> api.ApiKey:
    """A key as callers see it."""
    result = api.ApiKey(key_id=record.key_id, tenant=record.tenant, scopes=sorted(record.scopes), name=record.name)
    for name in ("create", "expire", "last_use", "revoke"):
        milliseconds = getattr(record, f"{name}_ms")
        if milliseconds:
            getattr(result, f"{name}_time").FromMilliseconds(milliseconds)
    return result
