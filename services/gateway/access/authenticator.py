"""Makes callers of credentials.

Knows which kinds of credentials there are and who checks each; nothing of calls' content.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import grpc

from live_avatar.services.gateway.access.api_key import PREFIX, ApiKey
from live_avatar.services.gateway.access.caller import (
    ALL_SCOPES,
    ANONYMOUS,
    TENANT_PATTERN,
    TOKEN_HOLDER,
    Caller,
    Scope,
    set_caller,
)
from live_avatar.services.gateway.access.failure_limit import FailureLimit, peer_address
from live_avatar.services.gateway.access.key_cache import KeyCache
from live_avatar.services.gateway.access.key_use import KeyUse
from live_avatar.services.gateway.access.methods import Rule
from live_avatar.services.gateway.access.refusals import credential_invalid, credential_missing
from live_avatar.services.gateway.access.settings import AuthMode
from live_avatar.serving.errors import ServiceError

AUTHORIZATION = "authorization"
_SCHEME = "bearer "
MAX_CREDENTIAL_CHARACTERS = 8_192
_MOST_TOKENS = 10_000

Metadata = Iterable[tuple[str, str | bytes]]
"""Of one call, as gRPC gives it."""


class Claims(Protocol):
    """What a token of a provider says of its bearer."""

    @property
    def tenant(self) -> str:
        """Whose sessions it may use."""
        ...

    @property
    def subject(self) -> str:
        """Identifies the bearer."""
        ...

    @property
    def scopes(self) -> Collection[str]:
        """What it may do; names that are no scopes of ours are ignored."""
        ...


class TokenVerifier(Protocol):
    """Checks bearer tokens that are no API keys."""

    async def verify(self, token: str) -> Claims:
        """What a valid token says; raises ServiceError UNAUTHENTICATED or UNAVAILABLE for any other."""
        ...


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What authenticates callers; None where a kind is not accepted."""

    keys: KeyCache | None = None
    use: KeyUse | None = None
    verifier: TokenVerifier | None = None
    bootstrap: ApiKey | None = None
    """Of the operator's tenant, accepted without a look at the store."""


class Authenticator:
    """Authenticates calls.

    Args:
        modes: which credentials are accepted; none at all: everybody is ``ANONYMOUS``.
        credentials: what checks them.
        operator_tenant: whose callers act for all tenants.
        failures: bounds bad credentials by network address.

    Raises:
        ValueError: a mode lacks what checks its credentials.
    """

    def __init__(
        self, modes: Collection[AuthMode], credentials: Credentials, operator_tenant: str, failures: FailureLimit
    ) -> None:
        if AuthMode.OIDC in modes and credentials.verifier is None:
            raise ValueError("auth.mode oidc needs the settings of its provider")
        self._modes = frozenset(modes)
        self._credentials = credentials
        self._operator_tenant = operator_tenant
        self._failures = failures
        self._tokens: OrderedDict[bytes, None] = OrderedDict()
        """Digests of provider's tokens that were valid."""

    async def authenticate(self, metadata: Metadata, peer: str, rule: Scope | Rule) -> Caller:
        """The caller of a call.

        Args:
            metadata: of the call.
            peer: where it comes from, as gRPC says it.
            rule: of its method.

        Raises:
            ServiceError: UNAUTHENTICATED, RESOURCE_EXHAUSTED/TOO_MANY_FAILURES, or PERMISSION_DENIED/SCOPE_MISSING.
        """
        address = peer_address(peer)
        values = [value for name, value in metadata if name.lower() == AUTHORIZATION]
        if rule is Rule.SESSION_TOKEN and (not self._modes or not values):
            return replace(TOKEN_HOLDER, peer=address)
        if not self._modes:
            return replace(ANONYMOUS, peer=address)
        caller = await self._caller(bearer_credential(values), address)
        set_caller(caller)  # known from here on, also where it lacks the scope
        if isinstance(rule, Scope):
            caller.require(rule)
        return caller

    async def _caller(self, credential: str, address: str) -> Caller:
        if credential.startswith(PREFIX):
            tenant, key_id, scopes = await self._check_key(credential, address)
        else:
            tenant, key_id, scopes = await self._check_token(credential, address)
        is_operator = tenant == self._operator_tenant
        return Caller(tenant=tenant, key_id=key_id, scopes=scopes, is_operator=is_operator, peer=address)

    async def _check_key(self, text: str, address: str) -> tuple[str, str, frozenset[Scope]]:
        try:
            key = ApiKey.parse(text)
        except ValueError:
            key = None
        own, keys = self._credentials.bootstrap, self._credentials.keys
        if key is not None and own is not None and key.key_id == own.key_id and key.matches(own.digest):
            return self._operator_tenant, key.key_id, ALL_SCOPES
        with self._counted(address, is_known=key is not None and keys is not None and keys.remembers(key)):
            if key is None or keys is None:
                raise credential_invalid()
            record = await keys.check(key)
        if self._credentials.use is not None:
            self._credentials.use.note(record.key_id)
        return record.tenant, record.key_id, record.scopes

    async def _check_token(self, token: str, address: str) -> tuple[str, str, frozenset[Scope]]:
        digest = hashlib.sha256(token.encode()).digest()
        with self._counted(address, is_known=digest in self._tokens):
            if self._credentials.verifier is None:
                raise credential_invalid()
            claims = await self._credentials.verifier.verify(token)
            if not re.fullmatch(TENANT_PATTERN, claims.tenant):
                raise credential_invalid("the token's tenant is no name of a tenant: 1 to 63 of a-z, 0-9 and -")
        self._remember(digest)
        return claims.tenant, claims.subject, frozenset(Scope(name) for name in claims.scopes if name in set(Scope))

    @contextmanager
    def _counted(self, address: str, *, is_known: bool) -> Iterator[None]:
        """Counts a check that fails; that of an unknown credential only where its address has failures left.

        Raises:
            ServiceError: TOO_MANY_FAILURES, before anything is checked.
        """
        if is_known:
            yield
            return
        self._failures.take(address)
        try:
            yield
        except BaseException as error:
            if not isinstance(error, ServiceError) or error.code is not grpc.StatusCode.UNAUTHENTICATED:
                self._failures.give_back(address)
            raise
        self._failures.give_back(address)

    def _remember(self, digest: bytes) -> None:
        self._tokens[digest] = None
        self._tokens.move_to_end(digest)
        while len(self._tokens) > _MOST_TOKENS:
            self._tokens.popitem(last=False)


def bearer_credential(values: Collection[str | bytes]) -> str:
    """The credential in the values of ``authorization``.

    Raises:
        ServiceError: UNAUTHENTICATED; there is none, there are several, or it is malformed.
    """
    if not values:
        raise credential_missing()
    if len(values) > 1:
        raise credential_invalid(f"the call has {len(values)} values of `authorization`; send one")
    (value,) = values
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        raise credential_invalid("`authorization` holds more than printable ASCII")
    if not value.lower().startswith(_SCHEME):
        raise credential_invalid("`authorization` must be `Bearer`, a space and the credential")
    credential = value[len(_SCHEME) :].strip()
    if len(credential) > MAX_CREDENTIAL_CHARACTERS:
        raise credential_invalid(f"the credential has more than {MAX_CREDENTIAL_CHARACTERS} characters")
    if not credential or " " in credential:
        raise credential_invalid("`authorization` must be `Bearer`, a space and the credential")
    return credential
