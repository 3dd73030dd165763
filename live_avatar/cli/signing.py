"""How the commands that write movies sign them: the key's place, from the environment or from ``provenance init``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from live_avatar.client.movie import Sign
    from live_avatar.provenance.claim_signer import ClaimSigner

CERTIFICATE_VARIABLE = "LIVE_AVATAR_SIGNING_CERTIFICATE"
KEY_VARIABLE = "LIVE_AVATAR_SIGNING_KEY"
COMMAND_VARIABLE = "LIVE_AVATAR_SIGNING_COMMAND"
TIMESTAMP_VARIABLE = "LIVE_AVATAR_TIMESTAMP_URL"


def default_folder() -> Path:
    """Where the user's own chain lies."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "live-avatar" / "provenance"


def movie_signing() -> "Sign | None":
    """How movies are signed here; None where nobody has set a key up.

    Raises:
        ValueError: the settings contradict each other, or name no such key.
        OSError: a file cannot be read.
        ModuleNotFoundError: a key is set up and the package that signs is not installed.
    """
    signer = _signer()
    if signer is None:
        return None
    import c2pa  # noqa: F401  # now, and not after the video was generated

    from live_avatar.provenance.movies import MovieSigning

    return MovieSigning(signer, os.environ.get(TIMESTAMP_VARIABLE, "")).sign


def _signer() -> "ClaimSigner | None":
    certificate, key, command = (
        os.environ.get(name, "") for name in (CERTIFICATE_VARIABLE, KEY_VARIABLE, COMMAND_VARIABLE)
    )
    if not certificate and not key and not command:
        return _own_signer()
    if not certificate or bool(key) == bool(command):
        raise ValueError(f"signing needs {CERTIFICATE_VARIABLE} and one of {KEY_VARIABLE} and {COMMAND_VARIABLE}")
    from live_avatar.provenance.claim_signer import signer_from_command, signer_from_files

    if command:
        return signer_from_command(Path(certificate), command)
    return signer_from_files(Path(certificate), Path(key))


def _own_signer() -> "ClaimSigner | None":
    folder = default_folder()
    if not (folder / "key.pem").exists():
        return None
    from live_avatar.provenance.claim_signer import signer_from_files
    from live_avatar.provenance.own_chain import CERTIFICATE, KEY

    return signer_from_files(folder / CERTIFICATE, folder / KEY)
