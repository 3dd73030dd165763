"""The queue between a hop's tasks."""

import asyncio

import pytest

from live_avatar.serving.streams.mailbox import Mailbox, MailboxClosedError


def test_urgent_items_go_first_and_all_others_in_order() -> None:
    async def scenario() -> list[str]:
        mailbox: Mailbox[str] = Mailbox(2)
        await mailbox.put("first")
        await mailbox.put("second")
        mailbox.post("beyond the bound")
        mailbox.post_urgent("urgent")
        mailbox.post_urgent("urgent too")
        return [await mailbox.get() for _ in range(len(mailbox))]

    assert asyncio.run(scenario()) == ["urgent", "urgent too", "first", "second", "beyond the bound"]


def test_put_waits_for_room_and_keeps_the_order_of_each_sender() -> None:
    async def scenario() -> None:
        mailbox: Mailbox[tuple[str, int]] = Mailbox(3)

        async def send(name: str) -> None:
            for number in range(50):
                await mailbox.put((name, number))
                assert len(mailbox) <= 3

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send("a"))
            tasks.create_task(send("b"))
            got = [await mailbox.get() for _ in range(100)]
        for name in ("a", "b"):
            assert [number for sender, number in got if sender == name] == list(range(50))

    asyncio.run(scenario())


def test_closing_wakes_everyone() -> None:
    async def scenario() -> None:
        empty: Mailbox[int] = Mailbox(1)
        full: Mailbox[int] = Mailbox(1)
        await full.put(0)
        waiting = [asyncio.create_task(empty.get()), asyncio.create_task(full.put(1))]
        await asyncio.sleep(0)
        empty.close()
        full.close()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, MailboxClosedError)
        assert len(full) == 0 and full.closed
        with pytest.raises(MailboxClosedError):
            full.post(1)

    asyncio.run(scenario())


def test_what_nobody_needs_any_more_makes_room() -> None:
    async def scenario() -> None:
        mailbox: Mailbox[str] = Mailbox(3)
        for item in ("gone 1", "stays", "gone 2"):
            await mailbox.put(item)
        waiting = asyncio.create_task(mailbox.put("next"))
        await asyncio.sleep(0)
        assert not waiting.done()
        mailbox.withdraw(lambda item: item.startswith("gone"))
        await waiting
        assert list(mailbox) == ["stays", "next"]

    asyncio.run(scenario())


def test_urgent_items_wait_for_room_of_their_own() -> None:
    async def scenario() -> None:
        mailbox: Mailbox[str] = Mailbox(1)
        await mailbox.put("last")
        await mailbox.put_urgent("first")
        waiting = asyncio.create_task(mailbox.put_urgent("second"))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert await mailbox.get() == "first"
        await waiting
        assert list(mailbox) == ["second", "last"]
        closed = asyncio.create_task(mailbox.put_urgent("never"))
        await asyncio.sleep(0)
        mailbox.close()
        with pytest.raises(MailboxClosedError):
            await closed

    asyncio.run(scenario())


def test_room_waits_for_a_permission_too() -> None:
    async def scenario() -> None:
        mailbox: Mailbox[str] = Mailbox(1)
        permitted = False
        waiting = asyncio.create_task(mailbox.room(lambda: permitted))
        await asyncio.sleep(0)
        assert not waiting.done()
        await mailbox.room()
        permitted = True
        mailbox.notify()
        await waiting
        refused = asyncio.create_task(mailbox.room(lambda: False))
        await asyncio.sleep(0)
        mailbox.close()
        with pytest.raises(MailboxClosedError):
            await refused

    asyncio.run(scenario())


def test_the_next_item_or_none_in_time() -> None:
    async def scenario() -> None:
        mailbox: Mailbox[str] = Mailbox(1)
        assert await mailbox.next(0.01) is None
        mailbox.post("late")
        assert await mailbox.next(-1.0) == "late"

    asyncio.run(scenario())
