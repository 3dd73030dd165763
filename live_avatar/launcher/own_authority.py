"""A certificate authority of one's own, for tests and small installations: it makes certificates for given names.

Knows X.509; nothing of who uses them.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CLOCK_SKEW = timedelta(minutes=5)
"""Certificates are valid from a little before now: the other side's clock may be behind."""
_MAX_COMMON_NAME = 64


@dataclass(frozen=True)
class OwnAuthority:
    """The certificate and the key of an authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, days: int, name: str = "Live Avatar authority") -> Self:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _common_name(name)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(subject, subject, key, timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def read(cls, certificate: bytes, key: bytes) -> Self:
        """From PEM; raises ValueError where they are none of ours."""
        secret = serialization.load_pem_private_key(key, None)
        own = x509.load_pem_x509_certificate(certificate)
        if not isinstance(secret, ec.EllipticCurvePrivateKey) or secret.public_key() != own.public_key():
            raise ValueError("the key is not that of the authority's certificate")
        return cls(own, secret)

    def issue(self, names: Sequence[str], valid: timedelta) -> tuple[bytes, bytes]:
        """A certificate for both sides of connections, and its key, as PEM.

        Args:
            names: DNS names and addresses, the first of which also becomes the common name.
            valid: from now; a negative one has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(_common_name(names[0]), self.certificate.subject, key, valid)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.certificate.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )
        return _pem(builder.sign(self.key, hashes.SHA256())), _key_pem(key)

    @property
    def certificate_pem(self) -> bytes:
        """What others need to check its certificates."""
        return _pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        """Its secret, with which anybody can make certificates."""
        return _key_pem(self.key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, valid: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + valid) - _CLOCK_SKEW)
        .not_valid_after(now + valid)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_COMMON_NAME])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
