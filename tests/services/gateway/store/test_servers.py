"""The store where its Redis is found by Sentinels, is a Cluster, or speaks TLS; and one that refuses us."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from redis.asyncio import Redis

from live_avatar.launcher.own_authority import OwnAuthority
from live_avatar.services.gateway.settings import StoreSettings
from live_avatar.services.gateway.store.quotas import Quotas
from live_avatar.services.gateway.store.redis_access import connect
from live_avatar.services.gateway.store.servers import StoreAddress, hosts
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.serving.errors import ServiceError

from .redis_servers import HOST, cluster, free_port, server, watched
from .test_store import ACTIVE, CLOSED, open_store, record


async def life(store: SessionStore) -> None:
    """A session from its creation to its end, with a place, quotas and a recorded use."""
    limits = Quotas(max_concurrent_sessions=3)
    made, is_new = await store.create(record("a", request_id="r"), limits)
    assert is_new
    assert (await store.create(record("b", request_id="r"), limits))[0] == made
    placed = await store.reserve_slot(made, "p", 1)
    assert placed is not None
    assert await store.reserve_slot((await store.create(record("c"), limits))[0], "p", 1) is None
    await store.activate(replace(placed, state=ACTIVE))
    assert (await store.renew_all([placed]))["a"] is None
    moved = await store.move(placed, "q", 1)
    assert moved is not None
    assert (moved.epoch, await store.count_all_slots(["p", "q"])) == (2, {"p": 0, "q": 1})
    assert {one.session_id for one in (await store.list_page("t", 10))[0]} == {"a", "c"}
    assert (await store.set_state("a", CLOSED)).state == CLOSED
    assert await store.count_slots("q") == 0
    await store.check()


def run(client: Redis, scenario: Callable[[SessionStore], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = open_store(client)
        try:
            await scenario(store)
        finally:
            await store.aclose()

    asyncio.run(whole())


def test_sessions_are_kept_in_a_cluster(tmp_path: Path) -> None:
    with cluster(tmp_path) as url:
        run(connect(StoreAddress(url=url)), life)


def test_sessions_outlive_a_failover(tmp_path: Path) -> None:
    with watched(tmp_path) as (url, master, _):

        async def scenario(store: SessionStore) -> None:
            await life(store)
            kept, _ = await store.create(record("kept"))
            await asyncio.sleep(0.3)  # the replica follows without a promise
            master.kill()
            await until_taken(lambda: store.renew(kept))
            assert await store.get("t", "kept") == kept
            assert await store.holder("kept") == store.owner
            assert (await store.create(record("later")))[1]

        run(connect(StoreAddress(url=url)), scenario)


async def until_taken(act: Callable[[], Awaitable[object]]) -> None:
    """Repeats something until the store takes it."""
    async with asyncio.timeout(30):
        while True:
            try:
                await act()
            except ServiceError as error:
                assert error.reason in ("STORE_LOST", "STORE_REFUSED")
                await asyncio.sleep(0.1)
            else:
                return


def certificates(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Authority, certificate and key for this machine."""
    authority = OwnAuthority.make(1)
    certificate, key = authority.issue((HOST,), timedelta(days=1))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}-{part}" for part in ("ca.crt", "tls.crt", "tls.key")]
    issued = authority.certificate.public_bytes(Encoding.PEM)
    for file, data in zip(files, (issued, certificate, key), strict=True):
        file.write_bytes(data)
    return files[0], files[1], files[2]


def test_the_store_proves_who_it_is_and_so_do_we(tmp_path: Path) -> None:
    ca, certificate, key = certificates(tmp_path, "ours")
    foreign, _, _ = certificates(tmp_path, "foreign")
    port = free_port()
    files = ("--tls-ca-cert-file", str(ca), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    flags = ("--port", "0", "--tls-port", str(port), *files)
    shown = ("--tls", "--cacert", str(ca), "--cert", str(certificate), "--key", str(key))
    url = f"rediss://{HOST}:{port}/0"
    with server(tmp_path / "data", port, *flags, tls=shown):
        run(connect(StoreAddress(url=url, ca=ca, certificate=certificate, key=key)), life)
        for address in (
            StoreAddress(url=url, ca=foreign, certificate=certificate, key=key),
            StoreAddress(url=url, ca=ca),
        ):
            run(connect(address), refused("STORE_LOST", ""))


def refused(reason: str, words: str) -> Callable[[SessionStore], Awaitable[None]]:
    async def scenario(store: SessionStore) -> None:
        with pytest.raises(ServiceError) as caught:
            await store.check()
        assert caught.value.reason == reason
        assert words in caught.value.message

    return scenario


def test_a_store_that_refuses_us_says_what(tmp_path: Path) -> None:
    port, replica = free_port(), free_port()
    with server(tmp_path / "one", port, "--requirepass", "right"):
        run(connect(f"redis://:right@{HOST}:{port}/0"), life)
        run(connect(f"redis://:wrong@{HOST}:{port}/0"), refused("STORE_REFUSED", "user or password"))
        run(connect(f"redis://{HOST}:{port}/0"), refused("STORE_REFUSED", "user or password"))
        access = ("--masterauth", "right")
        with server(tmp_path / "two", replica, "--replicaof", HOST, str(port), *access):
            run(connect(f"redis://{HOST}:{replica}/0"), refused("STORE_REFUSED", "replica"))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://a:1", "ends with /NAME"),
        ("redis+sentinel:///name", "names no host"),
        ("redis+ring://a:1", "url begins with"),
    ],
)
def test_addresses_that_are_none_are_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        StoreSettings(url=url)


def test_hosts_of_urls() -> None:
    assert hosts("redis+sentinel://u:p@a:1,b,[::1]:3/name/0") == [("a", 1), ("b", 26_379), ("::1", 3)]
