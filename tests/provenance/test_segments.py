"""A live stream is signed piece by piece: a verifier of others accepts it, and finds what was changed."""

from pathlib import Path
from typing import Any

import encypher_c2pa
import pytest

from live_avatar.config import TINY
from live_avatar.provenance import jumbf
from live_avatar.provenance.reading import INVALID, VALID, read_metadata, split_stream
from live_avatar.provenance.segments import SegmentSigner, SessionKey
from live_avatar.services.gateway.video.muxer import FragmentedMp4
from tests.provenance import media

SECRET = b"a secret that the gateways share"
BLOCKS = 3


@pytest.fixture(scope="module", autouse=True)
def no_telemetry() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENCYPHER_C2PA_TELEMETRY", "0")
        yield


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[bytes]]:
    claims = media.signer(tmp_path_factory.mktemp("chain"))
    key = SessionKey.derive(SECRET, media.FACTS.session_id)
    muxer = FragmentedMp4(TINY, (64, 64), media.RATE_HZ, SegmentSigner(claims, key, media.FACTS, valid_s=3600))
    units = media.mux(media.grey(BLOCKS * TINY.frames_per_block - TINY.stream.dropped_frames), muxer)
    return split_stream(b"".join([*units, muxer.finish()]))


def verified(header: bytes, segments: list[bytes], **options: Any) -> str:
    try:
        root = media.chain().root.decode()
        report = encypher_c2pa.verify_stream(header, segments, "video/mp4", trust_pem=root, **options)
    except ValueError:
        return "unreadable"
    return str(report["integrity"])


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def test_a_verifier_of_others_accepts_the_stream_and_any_beginning_of_it(stream: tuple[bytes, list[bytes]]) -> None:
    header, segments = stream
    assert len(segments) == BLOCKS + 1
    assert verified(header, segments) == "valid"
    assert verified(header, segments[:2]) == "valid"
    assert verified(header, segments[1:], expected_seek_positions=[0]) == "valid"
    assert verified(header, segments, validation_time="2099-01-01T00:00:00Z") == "valid"


def test_a_segment_that_is_missing_moved_or_of_another_session_is_found(
    stream: tuple[bytes, list[bytes]], tmp_path: Path
) -> None:
    header, segments = stream
    assert verified(header, [segments[0], segments[2]]) == "invalid"
    assert verified(header, [segments[1], segments[0]]) == "invalid"
    claims = media.signer(tmp_path)
    other = SegmentSigner(claims, SessionKey.derive(SECRET, "other"), media.FACTS, valid_s=3600)
    bare = b"".join(each.data for each in jumbf.top_boxes(segments[1]) if each.kind in (b"moof", b"mdat"))
    assert verified(header, [segments[0], other.fragment(2, bare)]) == "invalid"


def test_one_flipped_bit_in_pictures_sound_or_metadata_is_found(stream: tuple[bytes, list[bytes]]) -> None:
    header, segments = stream
    boxes = {each.kind: each for each in jumbf.top_boxes(segments[1])}
    moof, data = boxes[b"moof"], boxes[b"mdat"]
    pictures, sound = data.start + 40, data.start + len(data.data) - 10
    for at in (pictures, sound, moof.start + 20, moof.start + len(moof.data) - 2):
        assert verified(header, [segments[0], flipped(segments[1], at), *segments[2:]]) != "valid"
    parts = {each.kind: each for each in jumbf.top_boxes(header)}
    manifest, tracks = parts[b"uuid"], parts[b"moov"]
    for at in range(manifest.start + 100, manifest.start + len(manifest.data), 97):
        assert verified(flipped(header, at), segments) != "valid"
    assert verified(flipped(header, tracks.start + 60), segments) != "valid"


def test_another_gateway_with_the_secret_goes_on_with_the_stream(
    stream: tuple[bytes, list[bytes]], tmp_path: Path
) -> None:
    header, segments = stream
    key = SessionKey.derive(SECRET, media.FACTS.session_id)
    again = SegmentSigner(media.signer(tmp_path), key, media.FACTS, valid_s=3600)
    bare = b"".join(each.data for each in jumbf.top_boxes(segments[1]) if each.kind in (b"moof", b"mdat"))
    assert verified(header, [segments[0], again.fragment(2, bare), *segments[2:]]) == "valid"


def test_a_stored_stream_says_what_was_signed(stream: tuple[bytes, list[bytes]], tmp_path: Path) -> None:
    header, segments = stream
    file = tmp_path / "stream.mp4"
    file.write_bytes(header + b"".join(segments))
    found = read_metadata(file, media.chain().root.decode())
    assert (found.state, found.live, found.trusted, found.ai_generated) == (VALID, True, True, True)
    assert (found.session_id, found.mark, found.consent) == (
        media.FACTS.session_id,
        media.FACTS.mark,
        media.FACTS.consent,
    )
    assert not read_metadata(file).trusted
    file.write_bytes(header + flipped(b"".join(segments), 2000))
    assert read_metadata(file).state == INVALID
    file.write_bytes(header + b"".join(segments)[:-3])
    assert read_metadata(file).state == INVALID
