#!/usr/bin/env bash
# Signing a fragmented MP4 makes its table of random access points useless.
#
# Versions: c2pa-python 0.38.1, av 18.1.0, cryptography 46.0.3.
# What one expects: the signer moves every offset of mfra/tfra by the length of the box it puts in.
# What happens: it writes the offset of the last fragment into all entries.  The file validates, and a player that seeks by
#   the table lands at the end wherever it wants to go.
# Seen: "4 fragments; offsets before: 4 different; after: 1".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check c2pa-python==0.38.1 av==18.1.0 numpy==2.4.1 cryptography==46.0.3
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import datetime
import json
import struct
import sys

import av
import c2pa
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def write_film(path: str) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(path, "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12", "bf": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(48):
            picture = np.full((64, 64, 3), 5 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def offsets(data: bytes) -> list[int]:
    """moof_offset of each entry of the first tfra box."""
    at = data.index(b"tfra") + 4
    version, lengths = data[at], struct.unpack(">I", data[at + 8 : at + 12])[0]
    extra = sum((lengths >> shift & 3) + 1 for shift in (4, 2, 0))
    count, found = struct.unpack(">I", data[at + 12 : at + 16])[0], []
    at, size = at + 16, 8 if version else 4
    for _ in range(count):
        found.append(int.from_bytes(data[at + size : at + 2 * size], "big"))
        at += 2 * size + extra
    return found


def named(name: str) -> x509.Name:
    parts = ((NameOID.COMMON_NAME, name), (NameOID.ORGANIZATION_NAME, "Example"), (NameOID.COUNTRY_NAME, "DE"))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def certificate(name, key, issuer, issuer_key, is_root: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(named(name)).issuer_name(named(issuer)).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(
        now + datetime.timedelta(days=30)
    )
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )
    usage |= {"digital_signature": not is_root, "key_cert_sign": is_root, "crl_sign": is_root}
    builder = builder.add_extension(x509.BasicConstraints(is_root, None), True)
    builder = builder.add_extension(x509.KeyUsage(**usage), True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    return builder.sign(issuer_key, hashes.SHA256())


write_film("film.mp4")
root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
chain = [certificate("signer", key, "root", root_key, False), certificate("root", root_key, "root", root_key, True)]
pem = "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in chain)
private = key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=pem.encode(), private_key=private.encode(), ta_url=None)
manifest = {
    "claim_generator_info": [{"name": "example", "version": "1"}],
    "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [{
        "action": "c2pa.created",
        "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"}]}}],
}
with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
    with open("film.mp4", "rb") as source, open("signed.mp4", "w+b") as target:
        builder.sign(signer, "video/mp4", source, target)
before, after = (offsets(open(name, "rb").read()) for name in ("film.mp4", "signed.mp4"))
print(f"{len(before)} fragments; offsets before: {len(set(before))} different; after: {len(set(after))}")
sys.exit(0 if len(set(before)) == len(before) == len(after) and len(set(after)) == 1 else 1)
PY
