"""Session tokens: the right to one session of one tenant until the session must have ended.

A token carries the id of the key that signed it, the session, the tenant and the time of its end, so that nothing is
stored of it and a wrong one is rejected without a look at the store.  Knows cryptography; nothing of sessions.
"""

import hashlib
import hmac
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from live_avatar.serving.errors import ServiceError

LEEWAY_MS = 30_000
"""For clocks of gateways and store that differ, and for the last words of a session."""
MAX_CHARACTERS = 256
_FORM = re.compile(
    r"(?P<body>las_(?P<key>[0-9a-f]{8})\.(?P<session>[0-9a-f]{1,64})\.(?P<tenant>[a-z0-9-]{1,63})"
    r"\.(?P<expire_ms>[0-9]{1,15}))\.(?P<mac>[A-Za-z0-9_-]{43})"
)
_SIGNED, _NAMED = b"live-avatar session token\n", b"live-avatar token key\n"


@dataclass(frozen=True)
class TokenClaims:
    """What a valid token gives the right to."""

    session_id: str
    tenant: str


class SessionTokens:
    """Makes and checks tokens.

    Args:
        key: signs; equal on all gateways that share a store.
        previous: its tokens are accepted too, while ``key`` replaces it.
        clock_ms: milliseconds since 1970.
    """

    def __init__(
        self,
        key: bytes,
        previous: bytes | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._key = key
        self._keys = {_name(accepted): accepted for accepted in (previous, key) if accepted is not None}
        self._clock_ms = clock_ms

    def make(self, session_id: str, tenant: str, expire_ms: int) -> str:
        """The token of a session that ends at ``expire_ms``; the same one whenever it is asked for."""
        body = f"las_{self.key_name}.{session_id}.{tenant}.{expire_ms}"
        return f"{body}.{self.sign(_SIGNED, body)}"

    def check(self, token: str) -> TokenClaims:
        """What ``token`` gives the right to.

        Raises:
            ServiceError: UNAUTHENTICATED with TOKEN_INVALID, or TOKEN_EXPIRED where it was right once.
        """
        parts = _FORM.fullmatch(token)
        if parts is None or not self.is_signed(_SIGNED, parts["body"], parts["key"], parts["mac"]):
            raise ServiceError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "the session token is not valid")
        if self._clock_ms() > int(parts["expire_ms"]) + LEEWAY_MS:
            raise ServiceError(
                grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", "the session token has expired with its session"
            )
        return TokenClaims(parts["session"], parts["tenant"])

    @property
    def key_name(self) -> str:
        """Identifies the key that signs."""
        return _name(self._key)

    def sign(self, purpose: bytes, body: str) -> str:
        """The signature of ``body``, which is good for ``purpose`` alone."""
        return _mac(self._key, purpose, body)

    def is_signed(self, purpose: bytes, body: str, key_name: str, mac: str) -> bool:
        """Whether ``mac`` is what the key called ``key_name`` makes of ``body``, and that key is accepted."""
        key = self._keys.get(key_name)
        return key is not None and hmac.compare_digest(_mac(key, purpose, body), mac)


def _name(key: bytes) -> str:
    """Identifies a key and says nothing of it."""
    return hashlib.sha256(_NAMED + key).hexdigest()[:8]


def _mac(key: bytes, purpose: bytes, body: str) -> str:
    digest = hmac.digest(key, purpose + body.encode(), "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode()
