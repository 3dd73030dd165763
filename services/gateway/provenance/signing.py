"""Signs the media of the gateway's sessions with the operator's key.

Knows keys and sessions' facts; nothing of streams.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import grpc

from live_avatar.provenance.claim_signer import ClaimSigner, signer_from_command, signer_from_files
from live_avatar.provenance.facts import MediaFacts, mark_value
from live_avatar.provenance.segments import SegmentSigner, SessionKey
from live_avatar.provenance.session_record import MediaDigest, sign_record
from live_avatar.services.gateway.provenance.settings import SigningSettings
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.watermark.payload import session_number

SIGNING_FAILED = "SIGNING_FAILED"
_LONGER_S = 86_400
"""The key of a session may sign for so much longer than the session may last."""
_T = TypeVar("_T")


class MediaSigning:
    """Of one gateway.

    Args:
        claims: the operator's key.
        secret: from which the keys of sessions are derived; gateways that share a store have the same.
    """

    def __init__(self, claims: ClaimSigner, secret: bytes) -> None:
        self._claims = claims
        self._secret = secret

    def segments(self, facts: MediaFacts, max_duration_s: float) -> SegmentSigner:
        """What signs the fragments of a session."""
        key = SessionKey.derive(self._secret, facts.session_id)
        return SegmentSigner(self._claims, key, facts, valid_s=round(max_duration_s) + _LONGER_S)

    async def record(self, facts: MediaFacts, digest: MediaDigest | None = None) -> str:
        """The signed record of a session; raises ServiceError SIGNING_FAILED."""
        return await signing(lambda: sign_record(self._claims, facts, digest))


class SessionSignature:
    """The signature of all media of one session, as they are made.

    Args:
        signing: of the gateway.
        facts: of the session.
    """

    def __init__(self, signing: MediaSigning, facts: MediaFacts) -> None:
        self._signing = signing
        self._facts = facts
        self._digest: MediaDigest | None = MediaDigest()
        self._is_sent = False

    def add(self, data: bytes) -> None:
        """Adds the data of the next unit; messages without data are none."""
        if data and self._digest is not None:
            self._digest.add(data)

    def go_on(self) -> None:
        """Goes on with media of which another gateway has made a part: the record says nothing of their digest."""
        self._digest = None

    @property
    def is_sent(self) -> bool:
        """The record is among what was sent or is to be sent."""
        return self._is_sent

    def note_sent(self) -> None:
        """The record is among what is to be sent."""
        self._is_sent = True

    async def record(self) -> str:
        """The signed record with the digest so far; raises ServiceError SIGNING_FAILED."""
        return await self._signing.record(self._facts, self._digest)


async def signing(sign: Callable[[], _T]) -> _T:
    """Runs what signs in a thread, since a key service may take long; raises ServiceError SIGNING_FAILED."""
    try:
        return await asyncio.to_thread(sign)
    except (OSError, ValueError) as error:
        message = "the media cannot be signed, so they are not sent"
        raise ServiceError(grpc.StatusCode.UNAVAILABLE, SIGNING_FAILED, message) from error


def open_signing(settings: SigningSettings, secret: bytes) -> MediaSigning | None:
    """The operator's key, tried once; None where there is none.

    Raises:
        ValueError: files or command are not what they must be.
        OSError: a file cannot be read, or the command failed.
    """
    if settings.certificate is None:
        return None
    if settings.key is not None:
        claims = signer_from_files(settings.certificate, settings.key)
    else:
        claims = signer_from_command(settings.certificate, settings.command)
    claims.sign(b"live-avatar")
    return MediaSigning(claims, secret)


def media_facts(session_id: str, provenance: api.Session.Provenance) -> MediaFacts:
    """What is known of the media of a session."""
    marked = provenance.HasField("watermark_deployment")
    return MediaFacts(
        session_id=session_id,
        model_digest=provenance.model_digest,
        mark=mark_value(provenance.watermark_deployment, session_number(session_id)) if marked else "",
    )
