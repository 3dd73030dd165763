"""Signs a live fragmented MP4 piece by piece: verifiable segment information (C2PA 2.4, chapter 19.4).

The header carries a manifest, signed with the certificate's key, that announces a *session key*; that key signs a small
structure in an event message box before each fragment: which session, which fragment, and the hash of its bytes.
Everything but the header's time is derived from a secret and the session's id, so that another gateway with the same
secret can go on with the stream.  No library signs separate fragments, so the structures are written here.
"""

import struct
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from live_avatar.provenance import jumbf
from live_avatar.provenance.claim_signer import ClaimSigner
from live_avatar.provenance.cose import CERTIFICATES, KEY_ID, SIGNED_AT, Sign, public_key, sign1
from live_avatar.provenance.facts import MediaFacts, assertions, software_agent

SCHEME = b"urn:c2pa:verifiable-segment-info"
_VALUES = (b"fseg", b"c2pa")
"""Readers differ in the value that they look for: c2pa-rs and players take the first, encypher-c2pa the second."""
_SCHEME_AT = 12
"""Position of the scheme in an event message box of version 0."""
_BMFF_HASH, _SESSION_KEYS = "c2pa.hash.bmff.v3", "c2pa.session-keys"
_NOT_HASHED = frozenset({b"uuid", b"ftyp", b"mfra", b"free", b"skip"})
_SEGMENT_NOT_HASHED = frozenset({b"emsg"})
_ECDSA = ec.ECDSA(hashes.SHA256())
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_DATE_TAG = 0
_UNKNOWN_DURATION = 0xFFFFFFFF
_SEGMENT_TYPE = jumbf.box(b"styp", b"iso5", struct.pack(">I", 512), b"iso5", b"iso6", b"mp41")
"""Without it a verifier does not know what kind of file a single segment is."""


@dataclass(frozen=True)
class SessionKey:
    """Signs the fragments of one session."""

    secret: ec.EllipticCurvePrivateKey
    name: bytes
    manifest_id: str
    """Label of the manifest in the header."""

    @classmethod
    def derive(cls, secret: bytes, session_id: str) -> "SessionKey":
        """The key of a session; ``secret`` is that of the deployment."""
        derived = HKDF(hashes.SHA256(), 64, None, b"live-avatar segment key " + session_id.encode()).derive(secret)
        number = int.from_bytes(derived[:40], "big") % (_P256_ORDER - 1) + 1
        named = uuid.UUID(bytes=derived[40:56], version=4)
        return cls(ec.derive_private_key(number, ec.SECP256R1()), derived[56:], f"urn:c2pa:{named}")

    def sign(self, data: bytes) -> bytes:
        """An ES256 signature, two numbers of 32 bytes."""
        return b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(self.secret.sign(data, _ECDSA)))


class SegmentSigner:
    """Signs the header and the fragments of one session.

    Args:
        claims: signs the header.
        key: signs the fragments.
        facts: what the header says.
        valid_s: for how long after the header the key may sign.
    """

    def __init__(self, claims: ClaimSigner, key: SessionKey, facts: MediaFacts, valid_s: int) -> None:
        self._claims = claims
        self._key = key
        self._facts = facts
        self._valid_s = valid_s

    def header(self, init_segment: bytes) -> bytes:
        """``init_segment`` (``ftyp`` and ``moov``) with a manifest; blocks for as long as the claim signer takes.

        Raises:
            OSError: the signing command failed.
            ValueError: it gave no signature by the certificate's key.
        """
        boxes = list(jumbf.top_boxes(init_segment))
        begin, rest = boxes[0].data, b"".join(each.data for each in boxes[1:])
        listed = self._assertions(datetime.now(UTC))
        # All parts are of fixed length, so a first pass gives the positions that the hash depends on.
        length = len(jumbf.manifest_box(self._store(listed, bytes(32), lambda _: bytes(64))))
        placed = begin + jumbf.box(b"uuid", bytes(length - jumbf.HEADER_BYTES)) + rest
        store = self._store(listed, jumbf.bmff_hash(placed, _NOT_HASHED), self._claims.sign)
        return begin + jumbf.manifest_box(store) + rest

    def fragment(self, sequence: int, fragment: bytes) -> bytes:
        """``fragment`` (``moof`` and ``mdat``), number ``sequence`` from 1, behind its signed information."""
        length = len(self._events(sequence, bytes(32), lambda _: bytes(64)))
        placed = _SEGMENT_TYPE + jumbf.box(b"emsg", bytes(length - jumbf.HEADER_BYTES)) + fragment
        digest = jumbf.bmff_hash(placed, _SEGMENT_NOT_HASHED)
        return _SEGMENT_TYPE + self._events(sequence, digest, self._key.sign) + fragment

    def _events(self, sequence: int, digest: bytes, sign: Sign) -> bytes:
        excluded = {"xpath": "/emsg", "data": [{"offset": _SCHEME_AT, "value": SCHEME}]}
        info = {
            "sequenceNumber": sequence,
            "bmffHash": {"exclusions": [excluded], "alg": "sha256", "hash": digest},
            "manifestId": self._key.manifest_id,
        }
        protected = {SIGNED_AT: round(time.time())}
        signed = sign1(cbor2.dumps(info), sign, protected=protected, unprotected={KEY_ID: self._key.name})
        fields = struct.pack(">4I", 1000, 0, _UNKNOWN_DURATION, sequence) + cbor2.dumps(signed)
        return b"".join(jumbf.box(b"emsg", bytes(4), SCHEME, b"\0", value, b"\0", fields) for value in _VALUES)

    def _assertions(self, now: datetime) -> list[tuple[str, dict[str, Any]]]:
        announced = {
            "key": public_key(self._key.secret.public_key(), self._key.name),
            "minSequenceNumber": 1,
            "createdAt": cbor2.CBORTag(_DATE_TAG, now.strftime("%Y-%m-%dT%H:%M:%SZ")),
            "validityPeriod": self._valid_s,
            "signerBinding": sign1(self._claims.chain_der[0], self._key.sign),
        }
        return [*assertions(self._facts, now), (_SESSION_KEYS, {"keys": [announced]})]

    def _store(self, listed: list[tuple[str, dict[str, Any]]], digest: bytes, sign: Sign) -> bytes:
        exclusions: list[dict[str, Any]] = [{"xpath": f"/{kind.decode()}"} for kind in sorted(_NOT_HASHED - {b"uuid"})]
        exclusions.insert(0, {"xpath": "/uuid", "data": [{"offset": 8, "value": jumbf.MANIFEST_UUID}]})
        binding = {"exclusions": exclusions, "alg": "sha256", "hash": digest, "name": "jumbf manifest"}
        boxes = {
            label: jumbf.cbor_box(jumbf.CBOR, label, cbor2.dumps(content))
            for label, content in [(_BMFF_HASH, binding), *listed]
        }
        label = self._key.manifest_id
        claim = cbor2.dumps(
            {
                "instanceID": f"xmp.iid:{label.removeprefix('urn:c2pa:')}",
                "claim_generator_info": software_agent(),
                "signature": f"self#jumbf=/c2pa/{label}/c2pa.signature",
                "created_assertions": [
                    {"url": f"self#jumbf=c2pa.assertions/{name}", "hash": jumbf.content_hash(each)}
                    for name, each in boxes.items()
                ],
                "alg": "sha256",
            }
        )
        chain = self._claims.chain_der
        signed = sign1(claim, sign, protected={CERTIFICATES: chain if len(chain) > 1 else chain[0]}, detached=True)
        manifest = jumbf.superbox(
            jumbf.MANIFEST,
            label,
            jumbf.superbox(jumbf.ASSERTIONS, "c2pa.assertions", *boxes.values()),
            jumbf.cbor_box(jumbf.CLAIM, "c2pa.claim.v2", claim),
            jumbf.cbor_box(jumbf.SIGNATURE, "c2pa.signature", cbor2.dumps(signed)),
        )
        return jumbf.superbox(jumbf.STORE, "c2pa", manifest)
