"""The rendered chart runs: gateway, Redis and pipeline from the built images, used from outside, hurt, and well."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from live_avatar.cli.inputs import PORTRAIT, SPEECH, TRAINED
from live_avatar.client import AvatarClient, AvatarError, SessionOptions, VideoUnit
from live_avatar.client.speech import SpeechFile
from live_avatar.config import SAMPLE_RATE_HZ, TINY
from tests.helm.rendering import NAMESPACE, RELEASE, Document, ci_values, merged, render
from tests.system.harness.recordings import Recording, movie_of
from tests.system.harness.reference import System
from tests.system.test_whole_way import planes

from . import lab
from .kubelet import Kubelet, clean_up, kill
from .manifests import Node, Pod, common

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1_500)]

LOG = logging.getLogger(__name__)
PREFIX = "10.89.213"
GATEWAY, PIPELINE = f"{RELEASE}-live-avatar-gateway-0", f"{RELEASE}-live-avatar-pipeline-0"
GATEWAY_PORT = 7_000
READY_S, RECOVERED_S, MADE_S = 240.0, 120.0, 240.0
SEED, PROMPT = 11, "a person talks to the camera"
SERVICES = {
    "gateway": "gateway",
    "audio-encoder": "audio_encoder",
    "denoise-stage": "denoise_stage",
    "vae-decoder": "vae_decoder",
}
Frames = npt.NDArray[np.uint8]


def documents() -> list[Document]:
    """The chart as CI and a laptop use it."""
    quick = {
        "drain": {"seconds": 2, "preStopSeconds": 1, "marginSeconds": 1},
        "probes": {"periodSeconds": 1},
        # The lab has names, but nothing that leads from a Service's port to another one of the pod.
        "gateway": {"service": {"port": GATEWAY_PORT}},
        "auth": {"mode": "none", "insecure": True},
        "tls": {"enabled": False},
    }
    return render(merged(ci_values("cpu"), quick))


def image_names(rendered: list[Document]) -> dict[str, str]:
    """Name of every image in the lab by the one in the manifests."""
    wanted = {
        container["image"]
        for document in rendered
        if document["kind"] in ("StatefulSet", "Deployment")
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    names = {}
    for name in sorted(wanted):
        service = next((folder for kind, folder in SERVICES.items() if f"live-avatar-{kind}:" in name), None)
        names[name] = lab.image(service) if service else lab.valkey_image()
    return names


@dataclass(frozen=True)
class Release:
    """Everything the chart deploys, ready, and the pod of its test."""

    kubelet: Kubelet
    test: Pod


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    lab.set_up()
    clean_up()
    rendered = documents()
    began = time.monotonic()
    images = image_names(rendered)
    LOG.info("images: %.0f s", time.monotonic() - began)
    pods = {pod.name: pod for pod in Node(PREFIX, NAMESPACE, images).pods(rendered)}
    test = pods.pop(f"{RELEASE}-live-avatar-test")
    began = time.monotonic()
    with Kubelet(list(pods.values()), common(rendered), PREFIX) as kubelet:
        kubelet.wait_ready(READY_S)
        LOG.info("%d pods ready: %.0f s", len(pods), time.monotonic() - began)
        yield Release(kubelet, test)


@pytest.fixture(scope="module")
def gateway(release: Release) -> str:
    """Where it is reached from outside."""
    return f"{release.kubelet.pods[GATEWAY].ip}:{GATEWAY_PORT}"


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.float32]:
    """The sample speech, as the model hears it."""
    with SpeechFile(SPEECH) as file:
        assert file.rate_hz == SAMPLE_RATE_HZ
        samples = np.frombuffer(b"".join(file.chunks()), "<i2")
    return samples.astype(np.float32) / np.float32(32_768)


@pytest.fixture(scope="module")
def expected(speech: npt.NDArray[np.float32]) -> Frames:
    """The pictures [N, H, W, 3] that the library's loop makes of it, outside the containers."""
    recording = Recording(face=PORTRAIT.read_bytes(), speech=speech.tobytes(), seed=SEED, prompt=PROMPT)
    return movie_of(System(TINY, TRAINED), recording)


async def pictures(gateway: str, speech: npt.NDArray[np.float32]) -> Frames:
    """What the pod makes of it, without compression."""
    options = SessionOptions(
        sample_rate_hz=SAMPLE_RATE_HZ,
        sample_format="f32",
        video="rgb24",
        listening="whole_file",
        seed=SEED,
        prompt=PROMPT,
    )
    async with AvatarClient(gateway) as client:
        session = await client.create_session(PORTRAIT.read_bytes(), options)
        async with session.stream() as stream:
            await stream.send_audio(speech.tobytes())
            await stream.end()
            data = b"".join([result.data async for result in stream if isinstance(result, VideoUnit)])
    return np.frombuffer(data, np.uint8).reshape(-1, 64, 64, 3)


def test_the_pods_pictures_are_those_of_the_loop(
    gateway: str, speech: npt.NDArray[np.float32], expected: Frames
) -> None:
    got = asyncio.run(pictures(gateway, speech))
    assert torch.equal(torch.from_numpy(got.copy()), torch.from_numpy(expected))


def test_the_command_makes_the_same_video_from_outside(gateway: str, expected: Frames, tmp_path: Path) -> None:
    movie = tmp_path / "film.mp4"
    program = [str(Path(sys.executable).parent / "live-avatar"), "generate", f"--gateway={gateway}", f"--out={movie}"]
    subprocess.run([*program, f"--seed={SEED}", f"--prompt={PROMPT}"], check=True, timeout=MADE_S)
    with av.open(movie) as opened:
        got = np.stack([frame.to_ndarray(format="yuv420p") for frame in opened.decode(video=0)]).astype(np.float64)
    error = np.square(got - np.stack([planes(picture) for picture in expected])).mean((1, 2))
    psnr = 10 * np.log10(255**2 / error)
    LOG.info("PSNR of a frame: %.1f dB at worst, %.1f dB on average", psnr.min(), psnr.mean())
    assert psnr.min() > 30, "as near as compression lets them be"


def test_the_charts_own_test_passes(release: Release) -> None:
    began = time.monotonic()
    code, message = release.kubelet.finish(release.test, MADE_S)
    LOG.info("helm test: %.0f s", time.monotonic() - began)
    assert code == 0, message
    assert "/tmp/test.mp4: " in message


def test_the_others_survive_a_container_and_the_pod_recovers(
    release: Release, gateway: str, speech: npt.NDArray[np.float32], expected: Frames
) -> None:
    running = release.kubelet
    before = {name: running.process(PIPELINE, name) for name in running.pods[PIPELINE].containers}
    victim = "denoise-stage-2"
    kill(before[victim])
    running.wait_unready(PIPELINE, 10)
    with pytest.raises(AvatarError, match=r"UNAVAILABLE|STAGE_LOST|not ready|no pipeline"):
        asyncio.run(pictures(gateway, speech))
    began = time.monotonic()
    running.wait_ready(RECOVERED_S)
    LOG.info("recovered: %.1f s", time.monotonic() - began)
    after = {name: running.process(PIPELINE, name) for name in before}
    assert after.pop(victim) != before.pop(victim)
    assert after == before
    assert not running.restarts
    got = asyncio.run(until_served(gateway, speech))
    assert torch.equal(torch.from_numpy(got.copy()), torch.from_numpy(expected))


async def until_served(gateway: str, speech: npt.NDArray[np.float32]) -> Frames:
    """``pictures``, as soon as the gateway has found the pipeline again."""
    async with asyncio.timeout(RECOVERED_S):
        while True:
            try:
                return await pictures(gateway, speech)
            except AvatarError:
                await asyncio.sleep(0.5)
