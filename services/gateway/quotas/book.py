"""The quotas of each tenant: its own, or the defaults of the installation.

Knows the store; nothing of sessions or requests.
"""

import time
from collections import OrderedDict
from collections.abc import Mapping

from live_avatar.services.gateway.store.quotas import Quotas, QuotaTable, QuotaUsage
from live_avatar.serving.errors import ServiceError

_KEPT_S = 2.0
"""How long a gateway goes by what it read: a change holds on all of them after that."""
_TENANTS_KEPT = 1_000


class QuotaBook:
    """Quotas by tenant.

    Args:
        table: in the store.
        defaults: of tenants without quotas of their own.
    """

    def __init__(self, table: QuotaTable, defaults: Quotas) -> None:
        self._table = table
        self._defaults = defaults
        self._read: OrderedDict[str, tuple[float, Quotas]] = OrderedDict()

    async def of(self, tenant: str) -> Quotas:
        """The tenant's quotas, not older than 2 s; raises ServiceError where the store does not answer."""
        found = self._read.get(tenant)
        if found is not None and time.monotonic() - found[0] < _KEPT_S:
            return found[1]
        return await self.read(tenant)

    async def read(self, tenant: str) -> Quotas:
        """The tenant's quotas as they are stored now; raises like ``of``."""
        asked_at = time.monotonic()
        quotas = self._defaults.changed(await self._table.overrides(tenant))
        self._read[tenant] = (asked_at, quotas)
        self._read.move_to_end(tenant)
        if len(self._read) > _TENANTS_KEPT:
            self._read.popitem(last=False)
        return quotas

    async def update(self, tenant: str, values: Mapping[str, int]) -> Quotas:
        """Gives the tenant quotas of its own; returns all that hold now.  Raises like ``of``."""
        await self._table.override(tenant, values)
        return await self.read(tenant)

    async def use(self, tenant: str) -> QuotaUsage:
        """What the tenant has used; raises like ``of``."""
        return await self._table.use(tenant)

    async def left(self, tenant: str) -> Mapping[str, int]:
        """What is left of every quota that has a limit and is used up; empty where the store does not answer."""
        try:
            quotas = await self.of(tenant)
            if not QuotaUsage().of(quotas):
                return {}
            counted = (await self.use(tenant)).of(quotas)
        except ServiceError:
            return {}
        return {name: max(0, limit - used) for name, (limit, used) in counted.items()}
