"""Session tokens: a session's id and a secret that only the gateways can make.

The secret follows from the id, so that a repeated request gets the same token although only its hash is stored.
Knows cryptography; nothing of sessions.
"""

import hashlib
import hmac

import grpc

from live_avatar.serving.errors import ServiceError


def make_token(key: bytes, session_id: str) -> str:
    """The token of a session; 256 bits of it are secret."""
    return f"{session_id}.{hmac.digest(key, session_id.encode(), 'sha256').hex()}"


def token_hash(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).digest()


def named_session(token: str) -> str:
    """The session that a token claims to be for; raises ServiceError UNAUTHENTICATED where it is no token at all."""
    session_id, _, secret = token.partition(".")
    if not session_id or not secret:
        raise _bad_token()
    return session_id


def check_token(token: str, stored: bytes) -> None:
    """Raises ServiceError UNAUTHENTICATED where ``token`` is not the one whose hash is ``stored``."""
    if not hmac.compare_digest(token_hash(token), stored):
        raise _bad_token()


def _bad_token() -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "the session token is not valid")
