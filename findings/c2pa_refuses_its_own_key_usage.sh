#!/usr/bin/env bash
# A certificate for signing C2PA claims, and for nothing else, cannot sign a C2PA claim.
#
# Versions: c2pa-python 0.38.1, cryptography 46.0.3.
# What one expects: the extended key usage that C2PA defined for claim signing (c2pa-kp-claimSigning,
#   1.3.6.1.4.1.62558.2.1) is accepted, and so is document signing (RFC 9336, 1.3.6.1.5.5.7.3.36).
# What happens: with default settings the signer refuses both ("certificate missing required EKU"); only e-mail
#   protection is accepted.
# Seen: "claim signing: refused; document signing: refused; e-mail protection: signed".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check c2pa-python==0.38.1 pillow==12.0.0 cryptography==46.0.3
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import datetime
import io
import json
import sys

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

USAGES = {
    "claim signing": "1.3.6.1.4.1.62558.2.1",
    "document signing": "1.3.6.1.5.5.7.3.36",
    "e-mail protection": "1.3.6.1.5.5.7.3.4",
}


def named(name: str) -> x509.Name:
    parts = ((NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, "Example"))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def certificate(name: str, key, issuer: str, issuer_key, usage: str) -> x509.Certificate:
    now, is_root = datetime.datetime.now(datetime.timezone.utc), name == issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(is_root, None), True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False), True)
    )
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier(usage)]), False)
    return builder.sign(issuer_key, hashes.SHA256())


def outcome(usage: str) -> str:
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = [certificate("Signer", key, "Root", root_key, usage), certificate("Root", root_key, "Root", root_key, "")]
    pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain).decode()
    action = {"action": "c2pa.created", "digitalSourceType": "http://c2pa.org/digitalsourcetype/empty"}
    manifest = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}
    picture, signed = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    picture.seek(0)
    sign = lambda data: key.sign(data, ec.ECDSA(hashes.SHA256()))
    with c2pa.Signer.from_callback(sign, c2pa.C2paSigningAlg.ES256, pem, None) as signer:
        try:
            c2pa.Builder(json.dumps(manifest)).sign(signer, "image/png", picture, signed)
        except c2pa.C2paError as error:
            return "refused" if "missing required EKU" in str(error) else str(error)
    return "signed"


seen = {name: outcome(usage) for name, usage in USAGES.items()}
print("; ".join(f"{name}: {one}" for name, one in seen.items()))
sys.exit(list(seen.values()) != ["refused", "refused", "signed"])
PY
