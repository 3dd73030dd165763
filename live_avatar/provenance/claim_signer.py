"""Signs with the key of a certificate: one that lies in a file, or one that only a command may use.

ES256 alone (ECDSA with P-256 and SHA-256).  Knows keys and certificates; nothing of what is signed.
"""

import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

COMMAND_TIMEOUT_S = 10.0
MAX_PEM_BYTES = 64 * 1024
MAX_SIGNATURE_BYTES = 1024
_ECDSA = ec.ECDSA(hashes.SHA256())
_SCALAR_BYTES = 32
RAW_BYTES = 2 * _SCALAR_BYTES


@dataclass(frozen=True)
class ClaimSigner:
    """A key and the certificates that say whose it is."""

    certificates: tuple[x509.Certificate, ...]
    """That of the key first, then those that vouch for it; the root may be absent."""
    sign_der: Callable[[bytes], bytes]
    """Signs bytes: an ECDSA signature as DER, or as the two numbers of 32 bytes each."""

    @property
    def chain_pem(self) -> str:
        """The certificates as PEM."""
        pems = (each.public_bytes(serialization.Encoding.PEM) for each in self.certificates)
        return b"".join(pems).decode()

    @property
    def chain_der(self) -> list[bytes]:
        """The certificates as DER."""
        return [each.public_bytes(serialization.Encoding.DER) for each in self.certificates]

    def sign(self, data: bytes) -> bytes:
        """The signature of ``data``: two numbers of 32 bytes, as COSE and JWS have it.

        Raises:
            ValueError: the signature is not one by the certificate's key.
            OSError: the command cannot be run, failed or took too long.
        """
        made = self.sign_der(data)
        der = _as_der(made) if len(made) == RAW_BYTES else made
        public = self.certificates[0].public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey), "checked when the signer was made"
        try:
            public.verify(der, data, _ECDSA)
        except InvalidSignature:
            raise ValueError("the signing key is not that of the signing certificate") from None
        return _as_raw(der)


def signer_from_files(certificate: Path, key: Path) -> ClaimSigner:
    """The signer whose certificates and key are PEM files.

    Raises:
        ValueError: they are not what they must be, or do not belong together.
        OSError: a file cannot be read.
    """
    secret = private_key(_read(key), key)
    signer = ClaimSigner(_chain(certificate), lambda data: secret.sign(data, _ECDSA))
    if signer.certificates[0].public_key() != secret.public_key():
        raise ValueError(f"{key} is not the key of the first certificate in {certificate}")
    return signer


def signer_from_command(certificate: Path, command: str) -> ClaimSigner:
    """The signer whose key only ``command`` may use, such as the client of a key service or of a PKCS#11 device.

    The command is run without a shell for each signature: it gets the bytes to sign on stdin and writes their ECDSA
    signature (SHA-256) on stdout, as DER or as two numbers of 32 bytes.

    Raises:
        ValueError: the file holds no certificate, or the command is empty.
        OSError: the file cannot be read.
    """
    words = shlex.split(command)
    if not words:
        raise ValueError("the signing command is empty")
    return ClaimSigner(_chain(certificate), lambda data: _run(words, data))


def private_key(pem: bytes, named: Path) -> ec.EllipticCurvePrivateKey:
    """A P-256 key from PEM; raises ValueError where it is none, calling it ``named``."""
    try:
        secret = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{named} holds no private key without a password") from error
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or not isinstance(secret.curve, ec.SECP256R1):
        raise ValueError(f"{named} holds no key for ES256 (P-256)")
    return secret


def _chain(file: Path) -> tuple[x509.Certificate, ...]:
    try:
        chain = tuple(x509.load_pem_x509_certificates(_read(file)))
    except ValueError as error:
        raise ValueError(f"{file} holds no certificates as PEM") from error
    public = chain[0].public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise ValueError(f"the first certificate in {file} is not one for ES256 (P-256)")
    return chain


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(MAX_PEM_BYTES + 1)
    if len(data) > MAX_PEM_BYTES:
        raise ValueError(f"{file} has more than {MAX_PEM_BYTES} bytes, which is no PEM file of ours")
    return data


def _run(words: list[str], data: bytes) -> bytes:
    try:
        done = subprocess.run(words, input=data, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True)
    except subprocess.TimeoutExpired:
        raise OSError(f"the signing command {words[0]} took longer than {COMMAND_TIMEOUT_S:g} s") from None
    except subprocess.CalledProcessError as error:
        raise OSError(f"the signing command {words[0]} ended with code {error.returncode}") from None
    if not 0 < len(done.stdout) <= MAX_SIGNATURE_BYTES:
        raise ValueError(f"the signing command {words[0]} wrote {len(done.stdout)} bytes, which is no signature")
    return done.stdout


def _as_raw(der: bytes) -> bytes:
    return b"".join(number.to_bytes(_SCALAR_BYTES, "big") for number in decode_dss_signature(der))


def _as_der(raw: bytes) -> bytes:
    return encode_dss_signature(*(int.from_bytes(raw[at : at + _SCALAR_BYTES], "big") for at in (0, _SCALAR_BYTES)))
