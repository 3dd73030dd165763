"""The commands ``live-avatar usage`` and ``live-avatar quotas``, as processes, against a gateway."""

import asyncio
import csv
import io
import json
import sys
from typing import Any

import pytest

from live_avatar.cli.usage import HEADER
from tests.services.gateway.clients import BLOCK_SAMPLES, Gateway, movie, whole_system


async def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``live-avatar``."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "live_avatar.cli", *arguments, stdout=pipe, stderr=pipe
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode(), errors.decode()


async def good(running: Gateway, *arguments: str) -> str:
    code, output, errors = await command(*arguments, "--gateway", running.target)
    assert (code, errors) == (0, "")
    return output


def test_records_are_written_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live_avatar.services.gateway.api.usage_servicer.LARGEST_PAGE", 1)

    async def scenario() -> None:
        async with whole_system() as running:
            for _ in range(2):
                await movie(running, 2 * BLOCK_SAMPLES)
            await running.freed()
            table = list(csv.DictReader(io.StringIO(await good(running, "usage", "--csv"))))
            lines = [json.loads(line) for line in (await good(running, "usage", "--tenant", "*")).splitlines()]
            assert await good(running, "usage", "--csv", "--until", "2001-01-01") == ",".join(HEADER) + "\n"
            assert await good(running, "usage", "--json", "--since", "2999-01-01T00:00:00+02:00") == ""
        assert [one["kind"] for one in table] == 2 * ["KIND_STARTED", "KIND_ENDED"]
        assert [one["kind"] for one in lines] == [one["kind"] for one in table]
        last = table[-1]
        assert (last["media_seconds"], last["blocks"], last["tenant"]) == ("0.84", "2", "default")
        assert {part.partition("=")[0] for part in last["service_seconds"].split(";")} == {
            "audio-encoder", "denoise-stage-0", "vae-decoder",
        }  # fmt: skip
        assert (lines[-1]["media_time"], lines[-1]["blocks"]) == ("0.840s", "2")

    asyncio.run(scenario())


def test_quotas_are_shown_and_set() -> None:
    async def scenario() -> None:
        async with whole_system(settings={"quotas": {"max_session_seconds": 60}}) as running:
            await running.create()
            changed = await good(running, "quotas", "set", "default", "--max-concurrent-sessions", "3")
            assert "max_concurrent_sessions: 3\n" in changed
            seen = (await good(running, "quotas", "show", "default")).splitlines()
            assert seen[0] == "max_concurrent_sessions: 3  (used: 1)"
            assert "max_session_seconds: 60" in seen
            assert "max_frame_pixels: no limit" in seen

    asyncio.run(scenario())


REFUSED: dict[str, tuple[Any, str]] = {
    "no gateway": (("usage", "--gateway", "127.0.0.1:1"), "no gateway answers at 127.0.0.1:1"),
    "no time": (("usage", "--gateway", "127.0.0.1:1", "--since", "yesterday"), "--since 'yesterday' is no time"),
    "both forms": (("usage", "--gateway", "127.0.0.1:1", "--csv", "--json"), "give one of --csv and --json"),
    "no quota": (("quotas", "set", "a", "--gateway", "127.0.0.1:1"), "give at least one quota"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_one_line(name: str) -> None:
    arguments, reason = REFUSED[name]
    code, output, errors = asyncio.run(command(*arguments))
    assert (code, output, errors.count("\n")) == (2, "", 1), errors
    assert reason in errors
