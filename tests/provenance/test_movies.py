"""Signed movies: two readers accept them, a flipped bit is found, and a copy by other programs keeps the mark alone."""

import asyncio
import io
import json
from pathlib import Path

import av
import encypher_c2pa
import pytest
from typer.testing import CliRunner

from live_avatar.cli import signing
from live_avatar.cli.main import app
from live_avatar.client.movie import Movie
from live_avatar.provenance.claim_signer import ClaimSigner
from live_avatar.provenance.facts import MediaFacts
from live_avatar.provenance.movies import MovieSigning
from live_avatar.provenance.reading import ABSENT, INVALID, VALID, read_metadata
from tests.provenance import media
from tests.watermark.marking import KEY, marked, portrait


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> ClaimSigner:
    return media.signer(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def movie(signer: ClaimSigner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed and marked."""
    return write(tmp_path_factory.mktemp("movie") / "movie.mp4", signer, media.FACTS)


def write(path: Path, signer: ClaimSigner, facts: MediaFacts | None) -> Path:
    async def main() -> None:
        with Movie(path, sign=MovieSigning(signer).sign) as movie:
            movie.facts = facts
            for unit in media.unsigned(marked(portrait(256, 256, 105))):
                await movie.append(unit)
            await movie.finish()

    asyncio.run(main())
    return path


def remuxed(source: Path, target: Path) -> Path:
    with av.open(str(source)) as opened, av.open(str(target), "w") as written:
        streams = {each.index: written.add_stream_from_template(each) for each in opened.streams}
        for packet in opened.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                written.mux(packet)
    return target


def reencoded(source: Path, target: Path) -> Path:
    with av.open(str(source)) as opened, av.open(str(target), "w") as written:
        stream = written.add_stream("libx264", rate=25, options={"crf": "26"})
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for frame in opened.decode(video=0):
            written.mux(stream.encode(frame))
        written.mux(stream.encode(None))
    return target


def verify(folder: Path, *files: Path, trust: bool = True) -> tuple[int, list[dict[str, object]]]:
    (folder / "key").write_bytes(KEY)
    (folder / "root.pem").write_bytes(media.chain().root)
    arguments = ["verify", "--json", "--key-file", str(folder / "key")]
    arguments += ["--trust", str(folder / "root.pem")] if trust else []
    result = CliRunner().invoke(app, [*arguments, *map(str, files)], catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def test_two_readers_accept_a_movie_and_it_plays(movie: Path, tmp_path: Path) -> None:
    found = read_metadata(movie, media.chain().root.decode())
    assert (found.state, found.live, found.trusted, found.ai_generated) == (VALID, False, True, True)
    assert (found.session_id, found.mark, found.consent) == (
        media.FACTS.session_id,
        media.FACTS.mark,
        media.FACTS.consent,
    )
    report = encypher_c2pa.verify(movie.read_bytes(), "video/mp4", trust_pem=media.chain().root.decode())
    assert (report["integrity"], report["trust"]["status"]) == ("valid", "valid_for_supplied_material")
    with av.open(io.BytesIO(movie.read_bytes()), "r") as opened:
        assert len(list(opened.decode(video=0))) == 105
    assert list(movie.parent.iterdir()) == [movie]


def test_one_flipped_bit_anywhere_but_in_file_types_is_found(movie: Path, tmp_path: Path) -> None:
    data = movie.read_bytes()
    marks = [data.index(b"mdat") + 400, len(data) - 5000, data.index(b"moov") + 40, data.index(b"c2pa.claim") + 200]
    for at in marks:
        changed = bytearray(data)
        changed[at] ^= 1
        (tmp_path / "changed.mp4").write_bytes(changed)
        assert read_metadata(tmp_path / "changed.mp4").state == INVALID


def test_verify_says_what_metadata_and_mark_say_together(movie: Path, signer: ClaimSigner, tmp_path: Path) -> None:
    code, (report,) = verify(tmp_path, movie)
    assert (code, report["carries"], report["conclusion"]) == (0, "metadata and mark", "as signed")
    copy, again = remuxed(movie, tmp_path / "copy.mp4"), reencoded(movie, tmp_path / "again.mp4")
    code, reports = verify(tmp_path, copy, again)
    assert (code, [one["carries"] for one in reports]) == (0, ["mark", "mark"])
    assert all("metadata was lost" in str(one["conclusion"]) for one in reports)
    changed = bytearray(movie.read_bytes())
    changed[-3000] ^= 1
    (tmp_path / "changed.mp4").write_bytes(changed)
    code, (report,) = verify(tmp_path, tmp_path / "changed.mp4")
    assert (code, report["carries"]) == (3, "metadata and mark")
    assert "changed after it was signed" in str(report["conclusion"])
    foreign = write(tmp_path / "foreign.mp4", signer, MediaFacts(session_id="another session"))
    code, (report,) = verify(tmp_path, foreign)
    assert code == 3
    assert "name different sessions" in str(report["conclusion"])


def test_without_a_key_or_facts_a_movie_is_not_signed(signer: ClaimSigner, tmp_path: Path) -> None:
    assert read_metadata(write(tmp_path / "plain.mp4", signer, None)).state == ABSENT


def test_without_the_marks_key_metadata_alone_is_read(movie: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(movie)], env={"LIVE_AVATAR_WATERMARK_KEY": None})
    assert result.exit_code == 0
    assert "valid, signed by Tests, not a trusted signer" in result.stdout


def test_provenance_init_makes_the_key_that_the_commands_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert signing.movie_signing() is None
    result = CliRunner().invoke(app, ["provenance", "init"], catch_exceptions=False)
    assert (result.exit_code, "untrusted" in result.stderr) == (0, True)
    assert signing.movie_signing() is not None
    assert CliRunner().invoke(app, ["provenance", "init"]).exit_code == 2
    monkeypatch.setenv("LIVE_AVATAR_SIGNING_KEY", str(tmp_path / "absent.pem"))
    with pytest.raises(ValueError, match="signing needs LIVE_AVATAR_SIGNING_CERTIFICATE"):
        signing.movie_signing()
