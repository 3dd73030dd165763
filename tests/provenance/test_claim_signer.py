"""Keys in files and behind commands sign; what does not belong together is refused before anything is signed."""

import shlex
import stat
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from live_avatar.provenance.claim_signer import ClaimSigner, signer_from_command, signer_from_files
from live_avatar.provenance.own_chain import CERTIFICATE, KEY, make_chain, write_chain
from tests.provenance import media

DATA = b"what is signed"
KEY_SERVICE = """
import sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = serialization.load_pem_private_key(open(sys.argv[1], "rb").read(), None)
sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256())))
"""


def holds(signer: ClaimSigner, signature: bytes) -> None:
    public = signer.certificates[0].public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    numbers = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
    public.verify(encode_dss_signature(*numbers), DATA, ec.ECDSA(hashes.SHA256()))


def command(*words: str | Path) -> str:
    return shlex.join([sys.executable, *map(str, words)])


def test_a_key_in_a_file_signs_and_is_its_owners_alone(tmp_path: Path) -> None:
    signer = media.signer(tmp_path / "a")
    holds(signer, signer.sign(DATA))
    assert stat.S_IMODE((tmp_path / "a" / KEY).stat().st_mode) == 0o600


def test_a_chain_is_never_replaced(tmp_path: Path) -> None:
    media.signer(tmp_path)
    before = (tmp_path / KEY).read_bytes()
    with pytest.raises(ValueError, match="holds a chain already"):
        write_chain(tmp_path, make_chain("other", 1))
    assert (tmp_path / KEY).read_bytes() == before


def test_a_command_signs(tmp_path: Path) -> None:
    media.signer(tmp_path)
    (tmp_path / "service.py").write_text(KEY_SERVICE)
    signer = signer_from_command(tmp_path / CERTIFICATE, command(tmp_path / "service.py", tmp_path / KEY))
    holds(signer, signer.sign(DATA))


@pytest.mark.parametrize(
    "code, kind, words",
    [
        ("import sys; sys.exit(3)", OSError, "ended with code 3"),
        ("print('x' * 5000)", ValueError, "no signature"),
        ("", ValueError, "no signature"),
        ("import sys; sys.stdout.buffer.write(bytes([1]) * 64)", ValueError, "not that of the signing certificate"),
    ],
)
def test_a_command_that_does_not_sign_is_an_error(tmp_path: Path, code: str, kind: type[Exception], words: str) -> None:
    media.signer(tmp_path)
    signer = signer_from_command(tmp_path / CERTIFICATE, command("-c", code))
    with pytest.raises(kind, match=words):
        signer.sign(DATA)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    media.signer(tmp_path / "a")
    write_chain(tmp_path / "b", make_chain("other", 1))
    with pytest.raises(ValueError, match="is not the key of"):
        signer_from_files(tmp_path / "a" / CERTIFICATE, tmp_path / "b" / KEY)
    with pytest.raises(ValueError, match="no private key"):
        signer_from_files(tmp_path / "a" / CERTIFICATE, tmp_path / "a" / CERTIFICATE)
    with pytest.raises(ValueError, match="no certificates"):
        signer_from_files(tmp_path / "a" / KEY, tmp_path / "a" / KEY)
    with pytest.raises(ValueError, match="command is empty"):
        signer_from_command(tmp_path / "a" / CERTIFICATE, " ")
