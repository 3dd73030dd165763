"""Certificates of one's own to sign media with: for trying out, since verifiers trust no such authority.

Knows X.509 and the profile that C2PA asks of certificates; nothing of what is signed.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from live_avatar.files import OutputPath, put_in_place

CERTIFICATE, KEY, ROOT = "certificate.pem", "key.pem", "root.pem"
_EMAIL_PROTECTION = ExtendedKeyUsageOID.EMAIL_PROTECTION
"""The only purpose that c2pa-python and encypher-c2pa both accept."""
_CLOCK_SKEW = timedelta(minutes=5)
ORGANIZATION = "Live Avatar test chain, not trusted"


@dataclass(frozen=True)
class OwnChain:
    """A chain as PEM; the root's key is used once and not kept."""

    certificates: bytes
    """Of the key, then of the root."""
    key: bytes
    root: bytes


def make_chain(name: str, days: int) -> OwnChain:
    """Makes a root and a certificate by it for media signed by ``name``, valid for ``days``."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, subject = _name("Root"), _name(name)
    root = (
        _builder(root_name, root_name, root_key, root_key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    certificate = (
        _builder(subject, root_name, key, root_key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_EMAIL_PROTECTION]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pems = [each.public_bytes(serialization.Encoding.PEM) for each in (certificate, root)]
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return OwnChain(b"".join(pems), secret, pems[1])


def write_chain(folder: Path, chain: OwnChain) -> None:
    """Writes a chain into ``folder``, which is made; the key is readable by its owner alone.

    Raises:
        ValueError: a chain is there already.
        OSError: it cannot be written.
    """
    if any((folder / name).exists() for name in (CERTIFICATE, KEY, ROOT)):
        raise ValueError(f"{folder} holds a chain already: what it signed refers to it, so choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data, mode in (
        (KEY, chain.key, 0o600),
        (CERTIFICATE, chain.certificates, 0o644),
        (ROOT, chain.root, 0o644),
    ):
        _write(folder / name, data, mode)


def _write(file: Path, data: bytes, mode: int) -> None:
    beside = OutputPath(file, file, False).beside("new")
    try:
        beside.touch(mode, exist_ok=False)
        beside.write_bytes(data)
        put_in_place(beside, file)
    finally:
        beside.unlink(missing_ok=True)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
