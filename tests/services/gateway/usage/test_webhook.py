"""Usage records at a real HTTP server, which fails, hangs up and redirects."""

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from redis.asyncio import Redis

from live_avatar.services.gateway.election.leader import NoElection
from live_avatar.services.gateway.store.posting import PostingCursor
from live_avatar.services.gateway.store.redis_access import IN_MEMORY, connect
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.services.gateway.usage.webhook import WebhookPoster
from live_avatar.serving.streams.backoff import Backoff
from tests.services.gateway.clients import BLOCK_SAMPLES, movie, whole_system
from tests.services.gateway.store.test_store import open_store, record

SECRET = b"a secret of the receiver"
OK, REDIRECT, FAILED, HANGS_UP, LOST = 204, 302, 503, 0, -1
"""What the receiver answers; LOST: it takes the records, and its answer does not come."""


class Receiver:
    """What came, and what is answered next."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[int] = []
        self.accepted: list[dict[str, Any]] = []
        self.requests = 0
        self.problems: list[str] = []

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Does what docs/guides/access.md says a receiver should do."""
        self.requests += 1
        signed = headers["live-avatar-timestamp"].encode() + b"." + body
        wanted = "v1=" + hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
        if path != "/usage" or not hmac.compare_digest(headers["live-avatar-signature"], wanted):
            self.problems.append(f"{path} {headers['live-avatar-signature']}")
        answer = self.answers.pop(0) if self.answers else OK
        if answer in (OK, LOST):
            self.accepted += json.loads(body)["records"]
        return answer

    @property
    def keys(self) -> list[str]:
        return [one["idempotency_key"] for one in self.accepted]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A server on a free port."""
    taken = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = taken.take(self.path, dict(self.headers.items()), body)
            if answer > 0:
                self.send_response(answer)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    taken.url = f"http://127.0.0.1:{server.server_address[1]}/usage"
    try:
        yield taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def poster(client: Redis, url: str, owner: str, delays: list[float] | None = None) -> WebhookPoster:
    store = open_store(client, owner)
    report = (delays if delays is not None else []).append
    cursor = PostingCursor(client, owner)
    return WebhookPoster(store.usage, cursor, NoElection(), url, SECRET, report, Backoff(0.01, 0.05))


async def begin(store: SessionStore, name: str) -> None:
    made, _ = await store.create(record(name))
    await store.activate(replace(made, key_id="k"))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - a thread changes it
            await asyncio.sleep(0.02)


def play(scenario: Callable[[Receiver, Redis, SessionStore], Awaitable[None]]) -> None:
    async def run() -> None:
        client = connect(IN_MEMORY)
        await client.flushall()
        with receiver() as taken:
            await scenario(taken, client, open_store(client))
        assert taken.problems == []
        await client.aclose()

    asyncio.run(run())


async def end(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_every_record_arrives_once_accepted_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live_avatar.services.gateway.usage.webhook._BATCH", 3)
    monkeypatch.setattr("live_avatar.services.gateway.usage.webhook._IDLE_S", 0.02)

    async def scenario(taken: Receiver, client: Redis, store: SessionStore) -> None:
        taken.answers = [FAILED, REDIRECT, OK, HANGS_UP, LOST, OK]
        for turn in range(5):
            await begin(store, f"s{turn}")
        delays: list[float] = []
        tasks = [asyncio.create_task(poster(client, taken.url, owner, delays).run()) for owner in ("one", "two")]
        await until(lambda: len(taken.accepted) >= 7)
        await begin(store, "later")
        await until(lambda: taken.keys[-1] == "later:1:0")
        await until(lambda: delays[-1] == 0)
        await end(*tasks)
        first, again = ["s0:1:0", "s1:1:0", "s2:1:0"], ["s3:1:0", "s4:1:0"]
        assert taken.keys == [*first, *again, *again, "later:1:0"], "again what was accepted without an answer"
        assert max(delays) > 0
        one = taken.accepted[0]
        assert (one["session_id"], one["kind"], one["tenant"], one["key_id"]) == ("s0", "KIND_STARTED", "t", "k")
        assert taken.requests == 7

    play(scenario)


def test_another_gateway_goes_on_where_the_first_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live_avatar.services.gateway.usage.webhook._IDLE_S", 0.02)
    monkeypatch.setattr("live_avatar.services.gateway.store.posting._HELD_MS", 200)

    async def scenario(taken: Receiver, client: Redis, store: SessionStore) -> None:
        await begin(store, "a")
        task = asyncio.create_task(poster(client, taken.url, "one").run())
        await until(lambda: taken.keys == ["a:1:0"])
        await end(task)
        await begin(store, "b")
        task = asyncio.create_task(poster(client, taken.url, "two").run())
        await until(lambda: taken.keys == ["a:1:0", "b:1:0"])
        await end(task)

    play(scenario)


def test_a_gateway_posts_what_its_settings_say() -> None:
    async def scenario(taken: Receiver) -> None:
        settings = {"usage": {"webhook_url": taken.url, "webhook_secret": SECRET.decode()}}
        async with whole_system(settings=settings) as running:
            await movie(running, BLOCK_SAMPLES)
            await until(lambda: len(taken.accepted) == 2)
        assert [one["kind"] for one in taken.accepted] == ["KIND_STARTED", "KIND_ENDED"]
        assert taken.accepted[-1]["media_time"] == "0.360s"

    with receiver() as taken, suppress(asyncio.CancelledError):
        asyncio.run(scenario(taken))
    assert taken.problems == []


@pytest.mark.parametrize("half", [{"webhook_url": "http://a.example"}, {"webhook_secret": "0123456789abcdef"}])
def test_a_webhook_is_signed(half: dict[str, str]) -> None:
    from live_avatar.services.gateway.usage.settings import UsageSettings

    with pytest.raises(ValueError, match="belong together"):
        UsageSettings.model_validate(half)
