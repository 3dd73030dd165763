"""Decoding processes that a service keeps warm, for what strangers send.

Each job has a process to itself, for a limited time and with limited memory; a job that passes a limit, or whose caller
leaves, ends with its process, and a fresh one is started.  Knows portraits' errors; nothing of who calls.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, get_args

import grpc
import structlog

from live_avatar.portrait.limits import PortraitError, Reason
from live_avatar.serving.decode_process import Answer, BrokenProcessError, DecodeProcess
from live_avatar.serving.decode_queue import DecodeQueue, QueueFullError, Ticket
from live_avatar.serving.decode_worker import TOO_LARGE
from live_avatar.serving.errors import DRAINING, INTERNAL, ServiceError

_RETRY_AFTER_S = 1.0
_START, _START_S = "start a decoding process", 30.0


@dataclass(frozen=True, kw_only=True)
class PoolRules:
    """Bounds of a pool."""

    processes: int = 3
    memory_bytes: int = 512 * 2**20
    """Of one process, beyond what it has when it is warm."""
    cpu_seconds: int = 3
    """Computing time of one job: the same on a busy machine."""
    seconds: float = 10.0
    """From the moment a process has a job until it must have answered, however busy the machine."""
    max_light: int = 128
    """Light jobs that wait; whoever has most of them makes room for others."""
    max_heavy: int = 32
    """The same of other jobs."""


@dataclass(eq=False)
class _Job(Ticket):
    turn: asyncio.Future[DecodeProcess] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class DecodePool:
    """An async context manager; on exit all processes are gone.

    Args:
        entries: the functions that jobs may name, each as ``module:function``; see ``decode_worker``.
        rules: bounds.
    """

    def __init__(self, entries: Sequence[str], rules: PoolRules | None = None) -> None:
        self.rules = rules or PoolRules()
        self._entries = entries
        self._queue: DecodeQueue[_Job] = DecodeQueue(self.rules.processes, self.rules.max_light, self.rules.max_heavy)
        self._waiting: set[_Job] = set()
        self._processes: set[DecodeProcess] = set()
        self._idle: list[DecodeProcess] = []
        self._starting = 0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger(__name__)

    async def __aenter__(self) -> Self:
        self._serve()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._fail_waiting(_ending())
        for process in tuple(self._processes):
            self._retire(process)
        for task in tuple(self._tasks):
            if task.get_name() == _START:
                task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def pids(self) -> Sequence[int]:
        """Of the processes that run."""
        return [process.pid for process in self._processes if process.alive]

    async def work(
        self, entry: str, data: bytes, parameters: Mapping[str, Any], *, caller: str = "", light: bool = False
    ) -> Answer:
        """What ``entry`` makes of ``data``: facts and bytes.

        Args:
            entry: one of the pool's.
            data: what came from outside.
            parameters: further arguments; plain values.
            caller: with whom the others take turns; empty: unknown.
            light: takes tens of milliseconds.

        Raises:
            PortraitError: what the job raised; IMAGE_TOO_SLOW or IMAGE_TOO_LARGE where it passed the limit on time or
                memory; IMAGE_UNREADABLE where the decoder broke.
            ServiceError: CAPACITY_EXHAUSTED where too many wait, INTERNAL where decoding processes do not work.
        """
        async with self._turn(_Job(caller, light)) as process:
            try:
                async with asyncio.timeout(self.rules.seconds):
                    header, body = await process.ask(entry, data, parameters)
            except TimeoutError:
                raise _too_slow(self.rules.seconds) from None
            except BrokenProcessError:
                if self._closed:
                    raise _ending() from None
                await process.end()
                if process.ran_out_of_time:
                    raise _too_slow(self.rules.cpu_seconds) from None
                self._log.warning("a decoding process broke", entry=entry, bytes=len(data))
                raise PortraitError("IMAGE_UNREADABLE", "the image breaks its decoder") from None
            if header.get("refused") == TOO_LARGE:
                process.fit = False  # what is left of its memory may be in pieces
        return self._facts(header), body

    def _facts(self, header: Mapping[str, Any]) -> Mapping[str, Any]:
        if "facts" in header:
            facts: Mapping[str, Any] = header["facts"]
            return facts
        refused = header.get("refused")
        if refused == TOO_LARGE:
            message = f"the image takes more than {self.rules.memory_bytes >> 20} MiB to decode"
            raise PortraitError("IMAGE_TOO_LARGE", message)
        for reason in get_args(Reason):
            if refused == reason:
                raise PortraitError(reason, str(header.get("message")))
        self._log.error("a decoding job broke", exception=header.get("broke"))
        raise ServiceError(grpc.StatusCode.INTERNAL, INTERNAL, "an unexpected error; the service's log has the details")

    @asynccontextmanager
    async def _turn(self, job: _Job) -> AsyncIterator[DecodeProcess]:
        """A process for one job; it is killed on exit unless it has answered in full."""
        if self._closed:
            raise _ending()
        try:
            displaced = self._queue.join(job)
        except QueueFullError as error:
            raise _too_many(str(error)) from None
        if displaced is not None and not displaced.turn.done():
            displaced.turn.set_exception(_too_many("others wait whose callers have fewer"))
        self._waiting.add(job)
        self._serve()
        try:
            yield await job.turn
        finally:
            self._waiting.discard(job)
            self._queue.discard(job)
            if job.turn.done() and not job.turn.cancelled() and job.turn.exception() is None:
                self._give_back(job.turn.result())
            self._serve()

    def _serve(self) -> None:
        """Gives warm processes to those whose turn it is, and has one in hand for the next."""
        for process in [one for one in self._idle if not one.alive]:
            self._retire(process)
        while self._idle and (job := self._queue.next()) is not None:
            self._waiting.discard(job)
            if job.turn.done():  # its caller has left, and leaves the queue soon
                self._queue.discard(job)
            else:
                job.turn.set_result(self._idle.pop())
        wanted = max(1, self._queue.waiting) - len(self._idle) - self._starting
        room = self.rules.processes - len(self._processes) - self._starting
        for _ in range(0 if self._closed else min(wanted, room)):
            self._starting += 1
            self._keep(asyncio.create_task(self._start(), name=_START))

    async def _start(self) -> None:
        try:
            async with asyncio.timeout(_START_S):
                process = await DecodeProcess.start(self._entries, self.rules.memory_bytes, self.rules.cpu_seconds)
        except (BrokenProcessError, OSError, TimeoutError) as error:
            self._log.error("no decoding process starts", exception=repr(error))
            self._fail_waiting(ServiceError(grpc.StatusCode.INTERNAL, INTERNAL, "portraits cannot be decoded"))
            return
        finally:
            self._starting -= 1
        self._processes.add(process)
        self._idle.append(process)
        self._serve()

    def _give_back(self, process: DecodeProcess) -> None:
        if process.fit and process.alive and not self._closed:
            self._idle.append(process)
        else:
            self._retire(process)

    def _retire(self, process: DecodeProcess) -> None:
        """Ends a process; it counts until it is gone, and its memory with it."""
        if process in self._idle:
            self._idle.remove(process)
        self._keep(asyncio.create_task(self._end(process)))

    async def _end(self, process: DecodeProcess) -> None:
        await process.end()
        self._processes.discard(process)
        self._serve()

    def _fail_waiting(self, error: ServiceError) -> None:
        for job in tuple(self._waiting):
            if not job.turn.done():
                job.turn.set_exception(error)

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Holds a task until it ends; a task that nobody holds may vanish."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _too_slow(seconds: float) -> PortraitError:
    return PortraitError("IMAGE_TOO_SLOW", f"the image takes more than {seconds:g} s to decode")


def _ending() -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAVAILABLE, DRAINING, "the service ends")


def _too_many(message: str) -> ServiceError:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return ServiceError(code, "CAPACITY_EXHAUSTED", message, retry_after_s=_RETRY_AFTER_S)
