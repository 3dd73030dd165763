"""What happens to messages between their arrival on a hop and their leaving it.

Two tasks: one gives messages to the device thread in the order of their arrival over all sessions, the other sends
the results on, so that the device works on one block while the one before it waits for its credit.  Knows sessions,
the work and the link; knows nothing of the streams the messages came by.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from live_avatar.pipeline.v1.blocks_pb2 import StreamBlocksRequest, StreamBlocksResponse
from live_avatar.serving.device import Device, outcome
from live_avatar.serving.errors import ServiceError, as_service_error, session_failed
from live_avatar.serving.hop_messages import CloseCommand, Message, Result, begin, check_budget, report, stamp, too_late
from live_avatar.serving.link import Link
from live_avatar.serving.observer import Observer
from live_avatar.serving.priming import check_chain
from live_avatar.serving.sessions import Session, SessionTable
from live_avatar.serving.streams.mailbox import Mailbox
from live_avatar.serving.timing import HopTiming
from live_avatar.serving.work import Completion, Work
from live_avatar.v1.avatar_service_pb2 import BlockTiming

QUEUE_SIZE = 64

_Made = Sequence[StreamBlocksRequest] | Completion


class Worker:
    """The device's queue of one service.

    Args:
        name: of the service.
        work: what it does.
        link: to the next service; None at the end of the chain.
        device: where it does it.
        timing: waits.
        observer: receives events of sessions and blocks.
    """

    def __init__(
        self, name: str, work: Work, link: Link | None, device: Device, timing: HopTiming, observer: Observer
    ) -> None:
        self.sessions = SessionTable()
        self._name = name
        self._work = work
        self._link = link
        self._device = device
        self._timing = timing
        self._observer = observer
        self._inbox: Mailbox[Message | CloseCommand] = Mailbox(QUEUE_SIZE)
        self._outbox: Mailbox[Result] = Mailbox(QUEUE_SIZE)
        self._log = structlog.get_logger(__name__).bind(service=name)

    async def run(self) -> None:
        """Works until cancelled; then frees all sessions."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work_all())
                tasks.create_task(self._send_all())
        finally:
            self._inbox.close()
            self._outbox.close()
            for session in self.sessions:
                session.closed = True
                self._device.submit(_closing(self._work, session))

    async def put(self, message: Message) -> None:
        """Queues a message, waiting for room; raises MailboxClosedError after the end of ``run``.

        An Open waits behind no other session's blocks: nothing came before it that it must follow.
        """
        if message.request.HasField("open"):
            await self._inbox.put_urgent(message)
        else:
            await self._inbox.put(message)

    def end(self, session: Session, failure: StreamBlocksResponse | None = None) -> None:
        """Ends a session at once: its work is skipped from now on, and its memory freed before any later message.

        Args:
            session: one that may be over already; then nothing happens.
            failure: the message for upstream.
        """
        if session.closed:
            return
        session.end()
        if session.forwarded and self._link is not None:
            session.forwarded = False
            self._link.post(StreamBlocksRequest(close=StreamBlocksRequest.Close(key=session.key)))
        if failure is not None:
            session.upstream.reply(failure)
        if not self._inbox.closed:
            self._inbox.post_urgent(CloseCommand(session))

    def fail(self, session: Session, error: ServiceError) -> None:
        """Ends a session with an error of this service's."""
        if session.closed:
            return
        self._log.warning("session failed", session_id=session.key.session_id, reason=error.reason, error=error.message)
        self.end(session, session_failed(session.key, error, self._name))

    async def _work_all(self) -> None:
        before: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                before = await self._work_on(await self._inbox.get(), before, tasks)

    async def _work_on(
        self, item: Message | CloseCommand, before: asyncio.Task[None] | None, tasks: asyncio.TaskGroup
    ) -> asyncio.Task[None] | None:
        """Works on what came, behind the block ``before`` it; returns the block that runs from now on, if one does.

        The device is given a block while the one before it still runs, so that it need not wait for this loop.
        """
        started = None
        if isinstance(item, Message) and item.request.HasField("open"):
            await self._perform(item)
            return before
        if isinstance(item, Message) and item.request.HasField("block"):
            started = self._start_block(item, before, tasks)
        if before is not None:
            await before
        if started is None:
            await self._perform(item)
        return started

    async def _perform(self, item: Message | CloseCommand) -> None:
        """Does what is no work on a block, while none runs; an Open also before one that runs has been handed over."""
        if isinstance(item, CloseCommand):
            await self._free(item.session)
        elif not item.session.closed:
            try:
                await self._prepare(item)
            except ServiceError as error:
                self.fail(item.session, error)

    async def _prepare(self, message: Message) -> None:
        if message.request.HasField("open"):
            await self._open(message)
            return
        requests = await self._device.run(lambda: self._control(message))
        if requests:
            await self._outbox.put(Result(message, requests))

    def _control(self, message: Message) -> Sequence[StreamBlocksRequest]:
        """The work on audio or conditioning, in the device's thread; none where its session has ended meanwhile."""
        request = message.request
        if not message.still_needed():
            return ()
        if request.HasField("audio"):
            return list(self._work.audio(request.audio))
        return list(self._work.condition(request.conditioning_part))

    async def _open(self, message: Message) -> None:
        session = message.session
        session.reserved_bytes = await self._device.run(lambda: self._work.open(message.request.open))
        self._observer.session_opened(self._name, session.key, session.reserved_bytes)
        if self._link is not None:
            check_chain(message.request.open, self._link.services)
            # Not by the outbox, in which blocks wait for their credits.
            session.forwarded = await self._link.send(message.request, message.still_needed)
        elif not session.closed:
            self.opened(session, ())

    def opened(self, session: Session, below: Iterable[StreamBlocksResponse.Opened.Reservation]) -> None:
        """Tells upstream that a session's memory is reserved here and on all services below."""
        if session.opened or session.reserved_bytes is None:
            return
        session.opened = True
        own = StreamBlocksResponse.Opened.Reservation(service=self._name, bytes=session.reserved_bytes)
        opened = StreamBlocksResponse.Opened(key=session.key, reservations=[own, *below])
        session.upstream.reply(StreamBlocksResponse(opened=opened))

    async def _free(self, session: Session) -> None:
        try:
            await self._device.run(lambda: self._work.close(session.key))
        except ServiceError as error:
            self._log.error("session not freed", session_id=session.key.session_id, error=error.message)
        self.sessions.remove(session)
        if session.reserved_bytes is not None:
            self._observer.session_closed(self._name, session.key, session.reserved_bytes)
            session.reserved_bytes = None

    def _start_block(
        self, message: Message, before: asyncio.Task[None] | None, tasks: asyncio.TaskGroup
    ) -> asyncio.Task[None]:
        timing = BlockTiming(service=self._name)
        turn = self._device.start(lambda: self._turn(message, timing))
        return tasks.create_task(self._follow_block(message, timing, turn, before))

    def _turn(self, message: Message, timing: BlockTiming) -> _Made | None:
        """The work on one block, in the device's thread; None where nobody wants it any more."""
        began_ns = time.monotonic_ns()
        if not message.still_needed():
            return None
        begin(timing, message, began_ns)
        try:
            check_budget(message, began_ns)
            made = self._work.block(message.request.block)
            made = made if callable(made) else list(made)
        except Exception:
            message.session.failed = True
            raise
        timing.compute_time.FromNanoseconds(time.monotonic_ns() - began_ns)
        return made

    async def _follow_block(
        self,
        message: Message,
        timing: BlockTiming,
        turn: "asyncio.Future[_Made | None]",
        before: asyncio.Task[None] | None,
    ) -> None:
        """Hands over what a block's turn gives, behind the block before it."""
        if before is not None:
            await before
        block = message.request.block
        if message.still_needed():
            self._observer.block_started(self._name, message.session.key, block.index)
        try:
            made = await outcome(turn)
        except ServiceError as error:
            self._finish(Result(message, (), timing), False, error)
            return
        if made is None:
            message.session.upstream.acknowledge(block.key, block.index)
        elif callable(made):
            await self._outbox.put(Result(message, (), timing, made))
        else:
            await self._outbox.put(Result(message, made, timing))

    async def _send_all(self) -> None:
        while True:
            result = await self._outbox.get()
            error: ServiceError | None = None
            sent = False
            try:
                if result.message.still_needed():
                    sent = await self._send(result) and await self._complete(result)
            except ServiceError as failed:
                error = failed
            # The block leaves before its report is written: the link's writer is next in line.
            await asyncio.sleep(0)
            self._finish(result, sent, error)

    async def _send(self, result: Result) -> bool:
        """Sends a message's requests down; returns False where they are no longer wanted."""
        message = result.message
        for request in result.requests:
            assert self._link is not None, f"{self._name} is the end of the chain and passes nothing on"
            if request.HasField("block") and result.timing is not None:
                stamp(request.block, message, result.timing)
            if not await self._link.send(request, message.still_needed):
                return False
        return True

    async def _complete(self, result: Result) -> bool:
        """Runs a delivery, if there is one, until it is done, its session ends or its time is up.

        Returns whether the message reached its end.
        """
        if result.deliver is None or result.timing is None:
            return True
        session = result.message.session
        try:
            async with asyncio.timeout(self._timing.service_deadline_s) as scope:
                session.delivery = scope
                [failure] = await asyncio.gather(result.deliver(result.timing), return_exceptions=True)
        except TimeoutError:
            if session.closed:
                return False
            raise too_late("the block was not delivered in time") from None
        finally:
            session.delivery = None
        if failure is not None:
            raise as_service_error(failure) from failure
        return True

    def _finish(self, result: Result, sent: bool, error: ServiceError | None) -> None:
        """Ends a message's way: failure or acknowledgement, and the report of a block."""
        session, block = result.message.session, result.message.request.block
        if error is not None:
            self.fail(session, error)
        if result.timing is None:
            return
        session.upstream.acknowledge(block.key, block.index)
        if sent or error is not None:
            self._observer.block_finished(report(result, result.timing, error))


def _closing(work: Work, session: Session) -> Callable[[], int]:
    return lambda: work.close(session.key)
