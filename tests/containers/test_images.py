"""What is in the images, and what is not."""

import json
import logging
import time

import pytest

from . import lab
from .lab import podman

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(1_500)]

LOG = logging.getLogger(__name__)
SERVICES = ("gateway", "audio_encoder", "denoise_stage", "vae_decoder")
GATEWAY_MB = 250
COMPILERS = ("cc", "gcc", "g++", "c++", "clang", "ld", "as", "make")
LOCKED_DOWN = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=none", "--tmpfs=/tmp")


def run(image: str, script: str, *flags: str) -> str:
    """What a shell in the image says, with everything taken from it that a cluster takes."""
    return podman("run", "--rm", *LOCKED_DOWN, *flags, "--entrypoint", "sh", image, "-c", script).stdout


def compressed_mb(image: str) -> float:
    """Megabytes that a node pulls: the layers as a registry holds them."""
    folder = f"/var/tmp/{image.rpartition('/')[2].replace(':', '-')}"
    try:
        podman("push", "--quiet", "--compress", image, f"dir:{folder}", timeout_s=600)
        manifest = json.loads((lab.folder() / folder.lstrip("/") / "manifest.json").read_text())
    finally:
        lab.run("rm", "-rf", folder)
    return float(sum(layer["size"] for layer in manifest["layers"])) / 1e6


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_runs_as_nobody_in_particular_on_a_root_it_cannot_write(service: str) -> None:
    image = lab.image(service)
    assert run(image, "id -u; id -g; touch /x 2>/dev/null || echo read-only").split() == ["10001", "10001", "read-only"]
    config = lab.inspect("image", image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["python", "-m", f"live_avatar.services.{service}"]


def test_there_is_no_compiler_and_nothing_of_the_build(service: str) -> None:
    image = lab.image(service)
    assert run(image, f"for name in {' '.join(COMPILERS)}; do command -v $name; done; true") == ""
    others = "find /opt /src /mnt -type f -not -path '/opt/packages/*' -not -path '/opt/service/*' 2>/dev/null"
    assert run(image, f"{others}; true") == ""
    left = "find /etc/pip.conf /run/secrets /root/.cache /root/.config -type f 2>/dev/null; true"
    assert run(image, left, "--user=0:0") == ""


def test_only_its_own_service_is_in_it(service: str) -> None:
    folders = run(lab.image(service), "cd /opt/service/services && ls -d */").split()
    assert [name for name in folders if name != "__pycache__/"] == [f"{service}/"]


def test_it_starts_without_a_network(service: str) -> None:
    image = lab.image(service)
    done = podman("run", "--rm", *LOCKED_DOWN, "--env=HOME=/tmp", image, "--help", timeout_s=120)
    assert "--server.port" in done.stdout


def test_the_gateway_has_no_torch_and_is_small() -> None:
    image = lab.image("gateway")
    packages = "/opt/packages/lib/python3*/site-packages"
    assert run(image, f"cd {packages} && ls -d torch transformers nvidia* 2>/dev/null; true") == ""
    pulled, unpacked = compressed_mb(image), lab.inspect("image", image)["Size"] / 1e6
    LOG.info("gateway: %.0f MB pulled, %.0f MB unpacked", pulled, unpacked)
    assert pulled <= GATEWAY_MB


def test_what_computes_shares_its_packages() -> None:
    layers = [lab.inspect("image", lab.image(service))["RootFS"]["Layers"] for service in SERVICES[1:]]
    shared = set(layers[0]).intersection(*layers[1:])
    assert len(shared) == len(layers[0]) - 1, layers


def test_the_trainer_trains_and_serves_nobody() -> None:
    image = lab.image("trainer")
    config = lab.inspect("image", image)["Config"]
    assert (config["User"], config["Entrypoint"]) == ("10001:10001", ["python", "-m", "live_avatar.trainer"])
    assert run(image, "ls -d /opt/service/services 2>/dev/null; true") == ""
    assert "self_forcing" in run(image, "python -m live_avatar.trainer --help 2>&1; true", "--env=HOME=/tmp")
    launcher = "python -m torch.distributed.run --standalone --nproc-per-node=1 --module trainer --help 2>&1; true"
    assert "self_forcing" in run(image, launcher, "--env=HOME=/tmp")


def test_it_ends_cleanly_when_asked() -> None:
    flags = ("--discovery.dns=nowhere.invalid:1/2", "--server.drain-seconds=0")
    name = podman("run", "--detach", *LOCKED_DOWN, lab.image("gateway"), *flags).stdout.strip()
    try:
        deadline = time.monotonic() + 60
        while "listening" not in podman("logs", name).stdout:
            assert time.monotonic() < deadline, podman("logs", name).stderr
            time.sleep(0.1)
        podman("stop", "--time", "10", name)
        assert lab.inspect("container", name)["State"]["ExitCode"] == 0
    finally:
        podman("rm", "--force", name)
