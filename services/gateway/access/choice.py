"""Who is let in, from the settings.

Composes; knows nothing else.
"""

import asyncio
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.authenticator import Authenticator, Credentials
from live_avatar.services.gateway.access.failure_limit import FailureLimit
from live_avatar.services.gateway.access.jwks import KeyObserver
from live_avatar.services.gateway.access.key_admin import KeyAdmin
from live_avatar.services.gateway.access.key_cache import KeyCache
from live_avatar.services.gateway.access.key_store import ApiKeyStore
from live_avatar.services.gateway.access.key_use import KeyUse
from live_avatar.services.gateway.access.oidc import OidcVerifier, build_verifier
from live_avatar.services.gateway.access.settings import AuthMode, AuthSettings


@dataclass(frozen=True)
class Access:
    """What decides who is let in; ``run`` must run while it is used."""

    authenticator: Authenticator
    admin: KeyAdmin
    _keys: ApiKeyStore
    _use: KeyUse
    _verifier: OidcVerifier | None
    _needs_issuer: bool
    """Tokens are the only credentials."""

    @property
    def ready(self) -> bool:
        """Some credentials can be checked: where only tokens are accepted, keys of their issuer are known."""
        return not self._needs_issuer or self._verifier is None or self._verifier.ready

    async def run(self) -> None:
        """Writes when keys were used and fetches the issuer's keys, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._use.run())
            if self._verifier is not None:
                tasks.create_task(self._verifier.run())

    async def aclose(self) -> None:
        """Ends the connections to the store."""
        await self._keys.aclose()


def open_access(settings: AuthSettings, client: Redis, observer: KeyObserver) -> Access:
    """Access by ``settings``; API keys are kept in the Redis of ``client``.

    Raises:
        OSError: the CA certificates of the issuer cannot be read.
        ValueError: a mode lacks settings of its own.
    """
    keys, own = ApiKeyStore(client), settings.bootstrap_key
    takes_tokens = AuthMode.OIDC in settings.modes
    verifier = build_verifier(settings.oidc, observer, settings.operator_tenant) if takes_tokens else None
    use, cache = KeyUse(keys), KeyCache(keys) if AuthMode.KEYS in settings.modes else None
    credentials = Credentials(
        keys=cache,
        use=use if cache else None,
        verifier=verifier,
        bootstrap=ApiKey.parse(own.get_secret_value()) if own else None,
    )
    if not settings.modes:
        structlog.get_logger(__name__).warning(
            "callers are not authenticated: everybody who reaches this port may use and end every session"
        )
    failures = FailureLimit(settings.max_failures_per_minute)
    authenticator = Authenticator(settings.modes, credentials, settings.operator_tenant, failures)
    needs_issuer = settings.modes == {AuthMode.OIDC}
    return Access(authenticator, KeyAdmin(keys, cache), keys, use, verifier, _needs_issuer=needs_issuer)
