"""The signed record of a session: what a manifest says, as a JSON Web Signature, for media that have no place for one.

Knows the record; nothing of streams or of how it travels.
"""

import base64
import json
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from live_avatar.provenance.claim_signer import ClaimSigner
from live_avatar.provenance.facts import AI_SOURCE, MARK_ALGORITHM, MediaFacts, software_agent

TYPE = "live-avatar-session-record"
MAX_RECORD_BYTES = 64 * 1024
_ALGORITHM = "ES256"


@dataclass
class MediaDigest:
    """A digest over the media of a session in the order in which they are sent.

    h = SHA-256(h before || SHA-256(data of the unit)), over video and audio units alike, from 32 zero bytes on.
    """

    units: int = 0
    value: bytes = bytes(32)

    def add(self, data: bytes) -> None:
        """Adds the data of the next unit."""
        self.units += 1
        self.value = sha256(self.value + sha256(data).digest()).digest()


def sign_record(signer: ClaimSigner, facts: MediaFacts, digest: MediaDigest | None = None) -> str:
    """The record of a session, signed; with ``digest`` of all its media where they are complete.

    Raises:
        OSError: the signing command failed.
        ValueError: it gave no signature by the certificate's key.
    """
    record: dict[str, Any] = {
        "session_id": facts.session_id,
        "model_digest": facts.model_digest,
        "generator": software_agent(),
        "digital_source_type": AI_SOURCE,
        "iat": int(time.time()),
    }
    if facts.mark:
        record["mark"] = {"alg": MARK_ALGORITHM, "value": facts.mark}
    if digest is not None:
        record["media"] = {"units": digest.units, "sha256_chain": digest.value.hex()}
    chain = [base64.b64encode(each).decode() for each in signer.chain_der]
    signing = jwt.PyJWS(algorithms=[])
    signing.register_algorithm(_ALGORITHM, _Signing(signer))
    payload = json.dumps(record, separators=(",", ":")).encode()
    return signing.encode(payload, b"", _ALGORITHM, {"typ": TYPE, "x5c": chain})


def read_record(token: str) -> tuple[dict[str, Any], list[x509.Certificate]]:
    """What a record says, and the certificates of its key, whose issuer the caller has to know.

    Raises:
        ValueError: it is no record, or was changed after it was signed.
    """
    if len(token) > MAX_RECORD_BYTES:
        raise ValueError(f"a session record of more than {MAX_RECORD_BYTES} bytes is none")
    try:
        header = jwt.get_unverified_header(token)
        chain = [x509.load_der_x509_certificate(base64.b64decode(each)) for each in header["x5c"]]
        key = chain[0].public_key()
        if header.get("typ") != TYPE or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("it is of another type")
        return dict(jwt.decode(token, key, algorithms=[_ALGORITHM], options={"verify_iat": False})), chain
    except (jwt.PyJWTError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"the session record does not hold: {error}") from None


class _Signing(ECAlgorithm):
    """ES256 by a key that only signs."""

    def __init__(self, signer: ClaimSigner) -> None:
        super().__init__(ECAlgorithm.SHA256)
        self._signer = signer

    def prepare_key(self, key: Any) -> Any:
        """No key is handed over."""
        return key

    def check_key_length(self, key: Any) -> None:
        """A certificate of ES256 has a key of one length."""

    def sign(self, msg: bytes, key: Any) -> bytes:
        """Two numbers of 32 bytes."""
        return self._signer.sign(msg)
