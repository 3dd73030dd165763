"""Reads signed metadata: of a movie, or of a live stream that was stored as it came.

An adapter to c2pa-python, and to encypher-c2pa for live streams; both are optional: the extra ``provenance``.
Nothing is fetched from anywhere, whatever the file asks for.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from live_avatar.provenance import jumbf
from live_avatar.provenance.facts import AI_SOURCE, GENERATION, SOFT_BINDING
from live_avatar.provenance.segments import SCHEME

ABSENT, VALID, INVALID = "absent", "valid", "invalid"
MAX_STREAM_BYTES = 1 << 30
"""Of a stored live stream, which is read as a whole."""
_MP4 = "video/mp4"
_UNTRUSTED = "signingCredential.untrusted"
_HEAD_BYTES = 1 << 20
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
    "core": {"allowed_network_hosts": []},
}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file's signed metadata says, and whether it holds; an empty text: it does not say."""

    state: str
    """``ABSENT``, ``VALID``: as it was signed, or ``INVALID``: something was changed since."""
    live: bool = False
    """It is a live stream, signed piece by piece."""
    trusted: bool = False
    """The signer is vouched for by an authority that was given."""
    failures: tuple[str, ...] = ()
    """C2PA's codes of what does not hold."""
    signer: str = ""
    generator: str = ""
    created: str = ""
    """By the signer's clock."""
    ai_generated: bool = False
    session_id: str = ""
    model_digest: str = ""
    mark: str = ""
    """What the mark in the frames should carry, from ``mark_value``."""
    consent: str = ""


def read_metadata(file: Path, anchors_pem: str = "") -> Metadata:
    """The signed metadata of an MP4 file; of any other file it is absent.

    Args:
        file: read only.
        anchors_pem: authorities that are trusted, as PEM; empty: none.

    Raises:
        OSError: the file cannot be read.
        ValueError: a stored live stream is too large.
        ModuleNotFoundError: a package that reads it is not installed.
    """
    with file.open("rb") as opened:
        if not _is_mp4(opened):
            return Metadata(state=ABSENT)
        if _is_live_stream(opened):
            return _of_stream(opened, anchors_pem)
        return _of_movie(opened, anchors_pem)


def _is_mp4(opened: BinaryIO) -> bool:
    head = opened.read(jumbf.HEADER_BYTES)
    opened.seek(0)
    return head[4:] == b"ftyp"


def _is_live_stream(opened: BinaryIO) -> bool:
    head = opened.read(_HEAD_BYTES)
    opened.seek(0)
    return SCHEME in head and jumbf.MANIFEST_UUID in head


def _of_movie(opened: BinaryIO, anchors_pem: str) -> Metadata:
    import c2pa

    settings: dict[str, Any] = dict(_SETTINGS)
    if anchors_pem:
        settings["trust"] = {"user_anchors": anchors_pem}
    try:
        context = c2pa.Context(c2pa.Settings.from_dict(settings))
        with c2pa.Reader(_MP4, opened, context=context) as reader:
            listed, held = reader.get_active_manifest() or {}, json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return Metadata(state=ABSENT)
    except c2pa.C2paError as error:
        code = " ".join(str(error).split())[:200]
        return Metadata(state=INVALID, failures=(code,))
    codes = tuple(each["code"] for each in held.get("validation_status", ()))
    failures = tuple(code for code in codes if code != _UNTRUSTED)
    state = INVALID if failures else VALID
    return _metadata(listed, state=state, failures=failures, trusted=not failures and _UNTRUSTED not in codes)


def _of_stream(opened: BinaryIO, anchors_pem: str) -> Metadata:
    import encypher_c2pa

    if os.fstat(opened.fileno()).st_size > MAX_STREAM_BYTES:
        raise ValueError(f"a stored live stream of more than {MAX_STREAM_BYTES} bytes is not verified")
    # Its questions and reports about failures are for people at a terminal, and go over the network.
    os.environ.setdefault("ENCYPHER_C2PA_TELEMETRY", "0")
    try:
        header, segments = split_stream(opened.read())
        report = encypher_c2pa.verify_stream(header, segments, _MP4, trust_pem=anchors_pem or None, online=False)
    except ValueError as error:
        return Metadata(state=INVALID, live=True, failures=(" ".join(str(error).split())[:200],))
    stream = report["stream"]
    codes = dict.fromkeys(each["code"] for each in stream["validation_results"]["failure"])
    failures, held = tuple(code for code in codes if code != _UNTRUSTED), report["integrity"] == "valid"
    manifests = stream.get("manifest_report") or {}
    listed = (manifests.get("manifests") or {}).get(manifests.get("active_manifest")) or {}
    trusted = held and stream["trust"]["status"] == "valid_for_supplied_material"
    return _metadata(listed, state=VALID if held else INVALID, failures=failures, trusted=trusted, live=True)


def split_stream(data: bytes) -> tuple[bytes, list[bytes]]:
    """The header and the segments of a stored live stream.

    Raises:
        ValueError: it does not consist of whole boxes.
    """
    pieces: list[list[bytes]] = [[]]
    for each in jumbf.top_boxes(data):
        if each.kind == b"styp":
            pieces.append([])
        pieces[-1].append(each.data)
    header, *segments = (b"".join(piece) for piece in pieces)
    return header, segments


def _metadata(manifest: dict[str, Any], **found: Any) -> Metadata:
    """What a manifest says, in the form that both packages give it."""
    contents = {each["label"]: each.get("data") or {} for each in manifest.get("assertions", ())}
    created = _created(contents)
    details, blocks = contents.get(GENERATION, {}), contents.get(SOFT_BINDING, {}).get("blocks") or [{}]
    generator = manifest.get("claim_generator_info") or {}
    generator = generator[0] if isinstance(generator, list) else generator
    signature = manifest.get("signature_info") or {}
    return Metadata(
        signer=str(signature.get("common_name") or signature.get("issuer") or ""),
        generator=" ".join(str(generator[name]) for name in ("name", "version") if name in generator),
        created=str(created.get("when", "")),
        ai_generated=created.get("digitalSourceType") == AI_SOURCE,
        session_id=str(details.get("session_id", "")),
        model_digest=str(details.get("model_digest", "")),
        consent=str(details.get("consent", "")),
        mark=str(blocks[0].get("value", "")),
        **found,
    )


def _created(contents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The action that made the media, empty where none is named."""
    for label, content in contents.items():
        if label.startswith("c2pa.actions"):
            return next((each for each in content.get("actions", ()) if each.get("action") == "c2pa.created"), {})
    return {}
