"""Puts a signed C2PA manifest into a finished MP4 file, and reads it.

An adapter to the package c2pa-python, which is optional: the extra ``provenance``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from live_avatar.provenance.claim_signer import ClaimSigner
from live_avatar.provenance.facts import MediaFacts, assertions, software_agent

_MP4 = "video/mp4"


@dataclass(frozen=True)
class MovieSigning:
    """How movies are signed."""

    signer: ClaimSigner
    timestamp_url: str = ""
    """An RFC 3161 authority that vouches for the time; empty: the signer alone says when."""

    def sign(self, source: Path, target: Path, facts: MediaFacts) -> None:
        """Writes ``source``, a progressive MP4, with a manifest to ``target``, another file.

        Raises:
            OSError: it cannot be signed, or the time stamp authority did not answer.
            ModuleNotFoundError: c2pa-python is not installed.
        """
        import c2pa

        manifest = {
            "claim_generator_info": [software_agent()],
            "format": _MP4,
            "assertions": [{"label": label, "data": data} for label, data in assertions(facts)],
        }
        signer, url = self.signer, self.timestamp_url or None
        try:
            with (
                c2pa.Signer.from_callback(signer.sign, c2pa.C2paSigningAlg.ES256, signer.chain_pem, url) as signs,
                c2pa.Builder(json.dumps(manifest)) as builder,
                source.open("rb") as opened,
                target.open("x+b") as written,
            ):
                builder.sign(signs, _MP4, opened, written)
        except c2pa.C2paError as error:
            raise OSError(f"the video cannot be signed: {' '.join(str(error).split())}") from error
