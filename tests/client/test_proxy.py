"""Proxies in the environment: nothing on this machine goes through one, and who fails behind one learns it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
A_VIDEO = """
import asyncio
from live_avatar.client import AvatarClient, SessionOptions, VideoUnit
from tests.services.gateway.clients import BLOCK_SAMPLES, portrait, tone, whole_system

async def main():
    async with whole_system() as running, AvatarClient(running.target.replace("127.0.0.1", HOST)) as client:
        session = await client.create_session(portrait(), SessionOptions(sample_rate_hz=16_000, listening="streaming"))
        async with session.stream() as stream:
            await stream.send_audio(tone(BLOCK_SAMPLES))
            await stream.end()
            print(sum(one.frame_count for one in [r async for r in stream] if isinstance(one, VideoUnit)))

asyncio.run(main())
"""
A_REFUSAL = """
import asyncio
from live_avatar.client import AvatarClient, AvatarError

async def main():
    async with AvatarClient("192.0.2.1:50051") as client:
        try:
            await client.server_info()
        except AvatarError as error:
            print(error.code.name, error.reason, error.message)

asyncio.run(main())
"""


def run_behind_a_proxy(code: str) -> tuple[str, str]:
    """What a program prints where every variable names a proxy at a port that is closed; and that address."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        names = [*VARIABLES, *map(str.upper, VARIABLES)]
        environment = {**os.environ, **dict.fromkeys(names, f"http://user:secret@{address}")}
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            environment.pop(name, None)
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stdout, address


def test_services_gateway_and_client_on_one_machine_need_no_proxy() -> None:
    frames = [
        run_behind_a_proxy(f"HOST = {host!r}\n{A_VIDEO}")[0].splitlines()[-1] for host in ("127.0.0.1", "localhost")
    ]
    assert frames == ["9", "9"]


def test_a_client_that_fails_behind_a_proxy_names_it_and_the_remedy() -> None:
    message, address = run_behind_a_proxy(A_REFUSAL)
    assert message.startswith("UNAVAILABLE UNAVAILABLE")
    assert f"grpc_proxy={address}" in message and "no_proxy" in message and "secret" not in message
