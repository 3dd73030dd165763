"""The gateway as a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from live_avatar.services.gateway.api.messages import limits
from live_avatar.services.gateway.limits import Limits

ROOT = Path(__file__).parents[3]
NOWHERE = "127.0.0.1:1/127.0.0.1:2"


def command(*flags: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "live_avatar.services.gateway", *flags]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("LIVE_AVATAR__")}


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """A gateway whose pipeline does not exist."""
    pipe = subprocess.PIPE
    flags = command("--pipelines", NOWHERE)
    with subprocess.Popen(flags, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=environment()) as running:
        yield running
        running.kill()


def test_it_listens_without_its_pipeline_and_ends_cleanly(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = json.loads(process.stdout.readline())
    assert line["event"] == "listening"
    assert line["port"] > 0
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    reported = [json.loads(one) for one in errors.splitlines()]
    assert any(one["event"] == "listening" and one["pipelines"] == [NOWHERE] for one in reported)


def test_torch_is_not_in_the_process() -> None:
    """Nothing that the gateway imports, even late, brings the networks with it."""
    code = (
        "import sys, live_avatar.services.gateway.__main__, live_avatar.services.gateway.service;"
        "heavy = {'torch', 'transformers', 'einops'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "pipelines"),
        (("--pipelines", "127.0.0.1:5000"), "127.0.0.1:5000"),
        (("--pipelines", NOWHERE, "--discovery.dns", "pipelines:1/2"), "exactly one of pipelines"),
        (("--discovery.dns", "pipelines:1"), "discovery.dns"),
        (("--discovery.service", "pipelines"), "discovery.service"),
        (("--pipelines", NOWHERE, "--store.lease-seconds", "0"), "store.lease_seconds"),
        (("--pipelines", NOWHERE, "--colour", "red"), "--colour"),
        (("--pipelines", NOWHERE, "--server.host", "0.0.0.0"), "auth.mode is not set"),
        (("--pipelines", NOWHERE, "--auth.bootstrap-key", "la_hush"), "has the form"),
    ],
)
def test_settings_that_cannot_be_are_named(flags: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        command(*flags), cwd=ROOT, capture_output=True, text=True, check=False, env=environment(), timeout=30
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "hush" not in done.stderr


def test_settings_are_printed_without_secrets() -> None:
    done = subprocess.run(
        command("--pipelines", NOWHERE, "--token-key", "hush", "--limits.idle-timeout-seconds", "7", "--print-config"),
        cwd=ROOT, capture_output=True, text=True, check=True, env=environment(), timeout=30,
    )  # fmt: skip
    printed = json.loads(done.stdout)
    assert printed["limits"]["idle_timeout_seconds"] == 7
    assert printed["pipelines"] == [NOWHERE]
    assert "hush" not in done.stdout


def test_the_limits_of_the_settings_are_published() -> None:
    published = limits(Limits(open_timeout_seconds=1.5, slow_consumer_seconds=9, max_session_seconds=11))
    assert published.open_timeout.ToMilliseconds() == 1500
    assert (published.slow_consumer_timeout.ToSeconds(), published.max_session.ToSeconds()) == (9, 11)
