"""What the gateway says of its media: the disclosure first, signed fragments, and a signed record of every session."""

import asyncio
import shlex
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from live_avatar.provenance.own_chain import CERTIFICATE, KEY, write_chain
from live_avatar.provenance.reading import VALID, read_metadata
from live_avatar.provenance.session_record import read_record
from live_avatar.services.gateway.provenance.settings import SigningSettings
from live_avatar.serving.errors import from_rpc_error
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1.media_pb2 import VideoFormat
from tests.provenance import media
from tests.services.gateway.api.test_resumption import SPEECH
from tests.services.gateway.clients import (
    BLOCK_SAMPLES,
    Request,
    Response,
    is_movie,
    levels,
    movie,
    units,
    video_format,
    whole_system,
)
from tests.services.gateway.resuming_client import client

FAILS_FROM_THE_SECOND_ON = """
import pathlib, sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
folder = pathlib.Path(sys.argv[1])
count = len(list(folder.glob("asked-*")))
(folder / f"asked-{count}").touch()
key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
if count >= int(sys.argv[2]):
    sys.exit(1)
sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256())))
"""
Kind = Response.Event.Kind


@pytest.fixture
def signing(tmp_path: Path) -> dict[str, Any]:
    write_chain(tmp_path / "chain", media.chain())
    return {"certificate": tmp_path / "chain" / CERTIFICATE, "key": tmp_path / "chain" / KEY}


def record_of(received: list[Response]) -> dict[str, Any]:
    (event,) = (one.event for one in received if one.event.kind == Response.Event.KIND_SIGNED_RECORD)
    record, chain = read_record(event.signed_record)
    assert chain[0].subject.rfc4514_string().startswith("CN=Tests")
    return record


def digest(received: list[Response]) -> dict[str, Any]:
    """As the documents describe it."""
    count, value = 0, bytes(32)
    for one in received:
        data = one.video_unit.data or one.audio_unit.data
        if data:
            count, value = count + 1, sha256(value + sha256(data).digest()).digest()
    return {"units": count, "sha256_chain": value.hex()}


def test_every_stream_begins_with_the_disclosure_unless_the_operator_has_none() -> None:
    async def scenario() -> None:
        for settings, texts in (({"disclosure": {"text": "made by AI"}}, ["made by AI"]), ({}, [])):
            async with whole_system(settings=settings) as running:
                received = await movie(running, BLOCK_SAMPLES)
            assert [one.event.text for one in received if one.event.kind == Response.Event.KIND_DISCLOSURE] == texts
            if texts:
                assert received[1].event.text == "made by AI"
            assert [one.server_sequence for one in received] == list(range(len(received)))

    asyncio.run(scenario())


def test_signed_fragments_are_a_movie_that_verifies_and_has_a_record(signing: dict[str, Any], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with whole_system(settings={"signing": signing}) as running:
            received = await movie(running, BLOCK_SAMPLES * 4)
            session = received[0].opened.session
            later = await running.stub.GetSession(api.GetSessionRequest(session_id=session.session_id), timeout=30)
        data = b"".join(one.data for one in units(received))
        (tmp_path / "stream.mp4").write_bytes(data)
        found = read_metadata(tmp_path / "stream.mp4", media.chain().root.decode())
        assert (found.state, found.live, found.trusted) == (VALID, True, True)
        assert (found.session_id, found.model_digest) == (session.session_id, "digest")
        assert is_movie(levels(data), 48 - 3)
        record = record_of(received)
        assert record["media"] == digest(received)
        assert (record["session_id"], record["model_digest"]) == (session.session_id, "digest")
        for provenance in (session.provenance, later.session.provenance):
            first, _ = read_record(provenance.signed_record)
            assert (first["session_id"], "media" in first) == (session.session_id, False)

    asyncio.run(scenario())


def test_a_stream_that_was_resumed_is_one_signed_movie(signing: dict[str, Any], tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = {"signing": signing, "disclosure": {"text": "made by AI"}}
        async with whole_system(settings=settings) as running:
            async with client(running, VideoFormat.ENCODING_FMP4) as one:
                await one.open()
                await one.speak(SPEECH)
                await one.take(until=lambda one: len(one.units) > 2)
                await one.lose()
                await one.open()
                await one.say(finish=Request.Finish())
                await one.take()
            await running.freed()
        (tmp_path / "stream.mp4").write_bytes(b"".join(unit.data for unit in one.units))
        assert read_metadata(tmp_path / "stream.mp4").state == VALID
        texts = [event.text for event in one.events if event.kind == Response.Event.KIND_DISCLOSURE]
        assert texts == ["made by AI", "made by AI"]
        records = [read_record(event.signed_record)[0] for event in one.events if event.signed_record]
        assert [record["media"]["units"] for record in records] == [len(one.units)]

    asyncio.run(scenario())


@pytest.mark.parametrize("encoding", [VideoFormat.ENCODING_H264_ANNEXB, VideoFormat.ENCODING_RAW_RGB24])
def test_other_encodings_are_unchanged_and_have_a_record(
    signing: dict[str, Any], encoding: "VideoFormat.Encoding.ValueType"
) -> None:
    async def scenario() -> None:
        async with whole_system(settings={"signing": signing}) as running:
            signed = await movie(running, BLOCK_SAMPLES * 2, video=video_format(encoding))
        async with whole_system() as running:
            plain = await movie(running, BLOCK_SAMPLES * 2, video=video_format(encoding))
        assert [one.data for one in units(signed)] == [one.data for one in units(plain)]
        assert record_of(signed)["media"] == digest(signed)
        assert not any(one.event.signed_record for one in plain)

    asyncio.run(scenario())


@pytest.mark.parametrize("signatures", [1, 2])
def test_where_the_key_cannot_be_asked_nothing_unsigned_is_sent(
    signing: dict[str, Any], tmp_path: Path, signatures: int
) -> None:
    """The gateway asks once at its start, then for the session's record, then for the header of the stream."""
    (tmp_path / "service.py").write_text(FAILS_FROM_THE_SECOND_ON)
    folder = signing.pop("key").parent
    command = shlex.join([sys.executable, str(tmp_path / "service.py"), str(folder), str(signatures)])

    async def scenario() -> None:
        async with whole_system(settings={"signing": {**signing, "command": command}}) as running:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await movie(running, BLOCK_SAMPLES)
            assert from_rpc_error(failed.value).reason == "SIGNING_FAILED"
            await running.freed()

    asyncio.run(scenario())


def test_a_certificate_without_a_key_or_the_other_way_round_is_refused(signing: dict[str, Any]) -> None:
    for fault in ({"key": None}, {"certificate": None}, {"command": "sign"}):
        with pytest.raises(ValidationError, match="either a key or a command"):
            SigningSettings.model_validate({**signing, **fault})
