"""OIDC access tokens: whether the issuer made one for us, and whose it is.

Knows claims; the issuer's keys come from ``jwks.py``.  What a caller learns of a rejected token is whether it has
expired; why else it is rejected stands in the log, at level debug.
"""

import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NoReturn

import grpc
import jwt
import structlog

from live_avatar.services.gateway.access.caller import DEFAULT_TENANT, TENANT_PATTERN, Scope
from live_avatar.services.gateway.access.issuer import IssuerClient
from live_avatar.services.gateway.access.jwks import FetchTiming, IssuerKeys, KeyObserver
from live_avatar.services.gateway.access.oidc_settings import OidcSettings
from live_avatar.services.gateway.access.refusals import credential_invalid
from live_avatar.serving.errors import ServiceError

MAX_TOKEN_BYTES = 8 * 1024
_MAX_SUBJECT_CHARACTERS = 255
_MAX_CACHED = 10_000
_CACHED_S = 600.0
_REQUIRED = ["exp", "iss", "aud", "sub"]
_UNREADABLE = (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What PyJWT and json raise about bytes that are no token, or one with claims of another type."""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a valid token says."""

    tenant: str
    subject: str
    scopes: frozenset[Scope]


@dataclass(frozen=True)
class _Cached:
    claims: Claims
    expires_at: float
    """Seconds since 1970, the leeway included."""


class OidcVerifier:
    """Verifies tokens of one issuer; ``run`` fetches its keys meanwhile.

    Args:
        settings: with an issuer.
        keys: of that issuer.
        operator_tenant: tenant that tokens do not have unless the settings allow it.
    """

    def __init__(self, settings: OidcSettings, keys: IssuerKeys, operator_tenant: str = DEFAULT_TENANT) -> None:
        self._settings, self._keys, self._operator_tenant = settings, keys, operator_tenant
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()
        self._log = structlog.get_logger(__name__)
        keys.on_change(self._cache.clear)  # a key that was taken back makes its tokens invalid

    async def run(self) -> None:
        """Keeps the issuer's keys fresh, until it is cancelled."""
        await self._keys.run()

    @property
    def ready(self) -> bool:
        """There are keys: tokens can be verified."""
        return bool(self._keys.current.keys)

    async def verify(self, token: str) -> Claims:
        """What ``token`` says.

        Raises:
            ServiceError: UNAUTHENTICATED/CREDENTIAL_EXPIRED or CREDENTIAL_INVALID; PERMISSION_DENIED/TENANT_FORBIDDEN,
                it is genuine and belongs to no tenant; UNAVAILABLE/ISSUER_UNAVAILABLE, its key is unknown and the
                issuer does not answer.
        """
        if len(token) > MAX_TOKEN_BYTES:
            _reject("it is too long")
        digest = sha256(token.encode(errors="replace")).digest()
        cached = self._cache.get(digest)
        if cached is not None and time.time() < cached.expires_at:
            return cached.claims
        payload = self._payload(token, await self._key_for(token))
        claims = self._claims(payload)
        lasts_until = min(int(payload["exp"]) + self._settings.leeway_seconds, time.time() + _CACHED_S)
        self._cache[digest] = _Cached(claims, lasts_until)
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return claims

    async def _key_for(self, token: str) -> jwt.PyJWK:
        """The key that must have signed it, by a header which nobody has verified."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header["alg"], header.get("kid")
        except _UNREADABLE as error:
            _reject(f"its header is malformed: {error}")
        if algorithm not in self._settings.algorithms:
            _reject(f"it is signed by the algorithm {algorithm!r}")
        key = self._keys.current.find(key_id, algorithm)
        if key is None:
            await self._keys.refresh()
            key = self._keys.current.find(key_id, algorithm)
        if key is None and self._keys.last_failed:
            code = grpc.StatusCode.UNAVAILABLE
            raise ServiceError(code, "ISSUER_UNAVAILABLE", "the OIDC issuer does not answer", retry_after_s=1.0)
        if key is None:
            _reject(f"no key {key_id!r} for {algorithm}")
        return key

    def _payload(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        settings = self._settings
        try:
            return jwt.decode(
                token,
                key,
                algorithms=list(settings.algorithms),
                audience=list(settings.audience),
                issuer=settings.issuer,
                leeway=settings.leeway_seconds,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError:
            raise ServiceError(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED", "the token has expired") from None
        except _UNREADABLE as error:
            _reject(f"{type(error).__name__}: {error}")

    def _claims(self, payload: Mapping[str, Any]) -> Claims:
        subject = payload["sub"]
        if not subject or len(subject) > _MAX_SUBJECT_CHARACTERS or not subject.isprintable():
            _reject("its subject is empty, too long or not printable")
        return Claims(tenant=self._tenant(payload), subject=subject, scopes=self._scopes(payload))

    def _tenant(self, payload: Mapping[str, Any]) -> str:
        settings = self._settings
        tenant = settings.tenant or _value_at(payload, settings.tenant_claim)
        if not isinstance(tenant, str) or not re.fullmatch(TENANT_PATTERN, tenant):
            _forbid(f"the claim {settings.tenant_claim} of the token names no tenant")
        if tenant == self._operator_tenant and not settings.allow_operator:
            _forbid("tokens of this issuer do not belong to the operator")
        return tenant

    def _scopes(self, payload: Mapping[str, Any]) -> frozenset[Scope]:
        """Those of ours; the others are for other services."""
        found = _value_at(payload, self._settings.scope_claim)
        names = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        prefix = self._settings.scope_prefix
        ours = {name.removeprefix(prefix) for name in names if isinstance(name, str) and name.startswith(prefix)}
        return frozenset(scope for scope in Scope if scope.value in ours)


def build_verifier(
    settings: OidcSettings,
    observer: KeyObserver,
    operator_tenant: str = DEFAULT_TENANT,
    timing: FetchTiming | None = None,
) -> OidcVerifier:
    """The verifier of ``settings``; works once its ``run`` has fetched keys.

    Raises:
        OSError: the file of CA certificates cannot be read.
    """
    keys = IssuerKeys(
        settings.issuer,
        settings.jwks_uri,
        settings.algorithms,
        IssuerClient(settings.ca_file),
        observer,
        timing or FetchTiming(refresh_s=settings.refresh_seconds),
    )
    return OidcVerifier(settings, keys, operator_tenant)


def _value_at(payload: Mapping[str, Any], path: str) -> object:
    """The claim at a dotted path; a claim that has dots in its own name comes first."""
    if path in payload:
        return payload[path]
    found: object = payload
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _reject(detail: str) -> NoReturn:
    structlog.get_logger(__name__).debug("token rejected", reason=detail)
    raise credential_invalid()


def _forbid(message: str) -> NoReturn:
    raise ServiceError(grpc.StatusCode.PERMISSION_DENIED, "TENANT_FORBIDDEN", message)
