"""Who is let in, from the settings.

Composes; knows nothing else.
"""

from dataclasses import dataclass

import structlog
from redis.asyncio import Redis

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.authenticator import Authenticator, Credentials
from live_avatar.services.gateway.access.failure_limit import FailureLimit
from live_avatar.services.gateway.access.key_cache import KeyCache
from live_avatar.services.gateway.access.key_store import ApiKeyStore
from live_avatar.services.gateway.access.key_use import KeyUse
from live_avatar.services.gateway.access.settings import AuthMode, AuthSettings


@dataclass(frozen=True)
class Access:
    """What decides who is let in; ``run`` must run while it is used."""

    authenticator: Authenticator
    keys: ApiKeyStore
    _use: KeyUse

    async def run(self) -> None:
        """Writes when keys were used, until cancelled."""
        await self._use.run()


def open_access(settings: AuthSettings, client: Redis) -> Access:
    """Access by ``settings``; API keys are kept in the Redis of ``client``.

    Raises:
        ValueError: a mode lacks settings of its own.
    """
    keys, own = ApiKeyStore(client), settings.bootstrap_key
    use = KeyUse(keys)
    stored = AuthMode.KEYS in settings.modes
    credentials = Credentials(
        keys=KeyCache(keys) if stored else None,
        use=use if stored else None,
        bootstrap=ApiKey.parse(own.get_secret_value()) if own else None,
    )
    if not settings.modes:
        structlog.get_logger(__name__).warning(
            "callers are not authenticated: everybody who reaches this port may use and end every session"
        )
    failures = FailureLimit(settings.max_failures_per_minute)
    return Access(Authenticator(settings.modes, credentials, settings.operator_tenant, failures), keys, use)
