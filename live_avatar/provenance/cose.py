"""Signatures and keys as CBOR (COSE, RFC 9052), of the one kind that is used here: ES256, one signer.

Knows structures; the key itself is a function that signs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec

ALGORITHM, KEY_ID, SIGNED_AT, CERTIFICATES = 1, 4, 6, 33
_ES256 = -7
_SIGN1_TAG = 18
_KEY_TYPE, _KEY_NAME, _KEY_ALGORITHM, _CURVE, _X, _Y = 1, 2, 3, -1, -2, -3
_EC2, _P256 = 2, 1
_COORDINATE_BYTES = 32

Sign = Callable[[bytes], bytes]
"""Makes a signature of two numbers of 32 bytes."""


def sign1(
    payload: bytes,
    sign: Sign,
    *,
    protected: Mapping[int, Any] | None = None,
    unprotected: Mapping[Any, Any] | None = None,
    detached: bool = False,
) -> cbor2.CBORTag:
    """A COSE_Sign1 of ``payload``, which it holds unless it is ``detached``."""
    header = cbor2.dumps({ALGORITHM: _ES256, **(protected or {})})
    signature = sign(cbor2.dumps(["Signature1", header, b"", payload]))
    return cbor2.CBORTag(_SIGN1_TAG, [header, dict(unprotected or {}), None if detached else payload, signature])


def public_key(key: ec.EllipticCurvePublicKey, name: bytes) -> dict[int, Any]:
    """A P-256 key called ``name`` as COSE_Key."""
    numbers = key.public_numbers()
    return {
        _KEY_TYPE: _EC2,
        _KEY_NAME: name,
        _KEY_ALGORITHM: _ES256,
        _CURVE: _P256,
        _X: numbers.x.to_bytes(_COORDINATE_BYTES, "big"),
        _Y: numbers.y.to_bytes(_COORDINATE_BYTES, "big"),
    }
