"""A whole pipeline with TLS: it makes video as before, and who has no certificate gets nothing from its ports."""

import asyncio
import contextlib
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from live_avatar.cli.inputs import PORTRAIT, TRAINED
from live_avatar.cli.main import app
from live_avatar.client import AvatarClient, AvatarError, SessionOptions, VideoUnit
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER, GATEWAY, LocalPipeline, Plan
from live_avatar.launcher.tls_folder import TlsFolder, make_certificates
from live_avatar.pipeline.v1.blocks_pb2 import GetServiceInfoRequest, SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceStub
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoRequest, StreamVideoResponse
from live_avatar.pipeline.v1.vae_decoder_service_pb2_grpc import VaeDecoderServiceStub

from .installation import handshake, in_event_loop

RATE_HZ = 16_000
SPEECH = bytes(2 * RATE_HZ * 6)
NAMES = ["localhost", "127.0.0.1"]
EPOCH = 1


@dataclass
class Running:
    """A pipeline, and the credentials with which its clients come."""

    pipeline: LocalPipeline
    folder: Path | None

    @property
    def credentials(self) -> grpc.ChannelCredentials | None:
        if self.folder is None:
            return None
        return grpc.ssl_channel_credentials((self.folder / "ca.crt").read_bytes())

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.pipeline.services[name].port}"

    def channels(self, name: str) -> list[grpc.aio.Channel]:
        """Those of strangers to a service: in plain text, and where it has TLS with the right authority."""
        target, trusted = self.address(name), self.credentials
        plain = grpc.aio.insecure_channel(target)
        return [plain] if trusted is None else [plain, grpc.aio.secure_channel(target, trusted)]


def start(folder: Path, *, encrypted: bool) -> Iterator[Running]:
    tls = folder / "tls" if encrypted else None
    if tls is not None:
        make_certificates(tls, NAMES, 1)
    plan = Plan(layout=parse_layout("1x4"), weights=TRAINED, logs=folder, tls=TlsFolder.open(tls) if tls else None)
    with LocalPipeline(plan, lambda line: None) as pipeline:
        yield Running(pipeline, tls)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from start(tmp_path_factory.mktemp("encrypted"), encrypted=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from start(tmp_path_factory.mktemp("plain"), encrypted=False)


async def steal(channel: grpc.aio.Channel, session_id: str) -> int:
    """Asks a decoder for the video of somebody's session, again and again; the videos that came, at most one."""
    key = SessionKey(session_id=session_id, epoch=EPOCH)
    with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError, AttributeError):
        async with channel, asyncio.timeout(8):
            call = VaeDecoderServiceStub(channel).StreamVideo()
            response = StreamVideoResponse()
            while not response.HasField("video"):  # the gateway may ask for the same video later than a thief
                await call.write(StreamVideoRequest(subscribe=StreamVideoRequest.Subscribe(key=key)))
                response = await call.read()  # type: ignore[assignment]  # an end of the stream raises below
                await asyncio.sleep(0.02)
            return 1
    return 0


async def record_beside_a_thief(running: Running) -> tuple[int, int]:
    """Frames that a session's client got, and messages that a thief got meanwhile."""
    thefts: list[int] = []
    async with AvatarClient(running.address(GATEWAY), running.credentials) as client:
        session = await client.create_session(PORTRAIT.read_bytes(), SessionOptions(sample_rate_hz=RATE_HZ))
        async with session.stream() as stream:
            thief = asyncio.gather(*(steal(channel, session.session_id) for channel in running.channels(DECODER)))
            await asyncio.sleep(0.3)
            await stream.send_audio(SPEECH)
            await stream.end()
            try:
                frames = sum([result.frame_count async for result in stream if isinstance(result, VideoUnit)])
            except AvatarError:
                frames = 0
            thefts = await thief
    return frames, sum(thefts)


@in_event_loop
async def test_nobody_takes_the_video_of_a_session(encrypted: Running) -> None:
    frames, stolen = await record_beside_a_thief(encrypted)
    assert stolen == 0
    assert frames >= 140


@in_event_loop
async def test_in_plain_text_the_same_thief_succeeds(plain: Running) -> None:
    """What the test above would show without certificates; network policies alone keep such a decoder."""
    _, stolen = await record_beside_a_thief(plain)
    assert stolen > 0


def test_commands_reach_it_with_the_authority_and_say_what_is_wrong_without(encrypted: Running, tmp_path: Path) -> None:
    assert encrypted.folder is not None
    out, gateway = tmp_path / "video.mp4", f"grpcs://{encrypted.address(GATEWAY)}"
    speech = tmp_path / "speech.wav"
    with wave.open(str(speech), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes(SPEECH[: 2 * RATE_HZ])
    arguments = ["generate", "--audio", str(speech), "--out", str(out), "--gateway"]
    done = CliRunner().invoke(app, [*arguments, gateway, "--ca", str(encrypted.folder / "ca.crt")])
    assert (done.exit_code, out.exists()) == (0, True), done.stderr
    for target, message in ((gateway, "no authority that is trusted"), (encrypted.address(GATEWAY), "wants TLS")):
        done = CliRunner().invoke(app, [*arguments, target])
        assert done.exit_code == 2
        assert "TLS_FAILED" in done.stderr
        assert message in done.stderr


@in_event_loop
async def test_no_port_of_the_pipeline_answers_a_stranger(encrypted: Running) -> None:
    services = encrypted.pipeline.services.keys() - {GATEWAY}
    codes = [await ask(channel) for name in services for channel in encrypted.channels(name)]
    assert codes == [(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)] * 6


async def ask(channel: grpc.aio.Channel) -> tuple[grpc.StatusCode, grpc.StatusCode]:
    """How a call and a stream end."""
    async with channel:
        service = PipelineServiceStub(channel)
        call = service.GetServiceInfo(GetServiceInfoRequest(), timeout=5)
        stream = service.StreamBlocks(iter([StreamBlocksRequest()]), timeout=5)
        return await call.code(), await stream.code()


@in_event_loop
async def test_certificates_change_while_a_session_streams(encrypted: Running) -> None:
    assert encrypted.folder is not None
    ports = [child.port for child in encrypted.pipeline.services.values()]
    before = {await asyncio.to_thread(handshake, port) for port in ports}
    async with AvatarClient(encrypted.address(GATEWAY), encrypted.credentials) as client:
        session = await client.create_session(PORTRAIT.read_bytes(), SessionOptions(sample_rate_hz=RATE_HZ))
        async with session.stream() as stream:
            await stream.send_audio(SPEECH)
            await anext(stream)
            make_certificates(encrypted.folder, NAMES, 1)
            after = {await asyncio.to_thread(handshake, port) for port in ports}
            await stream.end()
            frames = sum([result.frame_count async for result in stream if isinstance(result, VideoUnit)])
    assert len(before) == len(after) == 1
    assert before != after
    assert frames >= 100
