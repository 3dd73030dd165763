"""Signals end a command in order: what it began is removed, what it started is ended, the exit code says which.

Knows signals, asyncio and threads; nothing of what a command does.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, NoReturn, TypeVar

_T = TypeVar("_T")
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_THREADS = "live-avatar-work"
_PATIENCE_S = 0.5
"""Time for threads to end by themselves."""


@contextlib.contextmanager
def signals_as_exits() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does, so that everything is removed; the exit code is 128 + n."""

    def exit_on_signal(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    with _handlers(_ENDING, exit_on_signal):
        yield


def run(main: Coroutine[Any, Any, _T], on_ctrl_c: Callable[[], object] | None = None) -> _T:
    """Runs ``main``; a signal cancels it, and a second one cuts what it does then short.

    A thread that still waits for a file when a signal has come is not waited for.

    Args:
        main: what to run.
        on_ctrl_c: called at the first Ctrl-C instead, for what has no other end.

    Raises:
        SystemExit: a signal came; the code is 128 + n.
    """
    came: list[int] = []
    threads = _Threads(thread_name_prefix=_THREADS)

    async def cancellable() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.set_default_executor(threads)

        def cancel(number: int, _frame: FrameType | None) -> None:
            nonlocal on_ctrl_c
            if on_ctrl_c is not None and number == signal.SIGINT:
                on_ctrl_c()
                on_ctrl_c = None
                return
            came.append(number)
            threads.abandoned = True
            loop.call_soon_threadsafe(task.cancel)

        numbers = [*_ENDING]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            numbers.append(signal.SIGINT)
        with _handlers(numbers, cancel):
            return await main

    try:
        return asyncio.run(cancellable())
    except BaseException:
        if came:
            raise SystemExit(128 + came[0]) from None
        raise


def exit_process(code: int) -> None:
    """Ends the process at once where a thread still waits for a file, which Python would wait for; else returns."""
    for thread in threading.enumerate():
        if thread.name.startswith(_THREADS):
            thread.join(_PATIENCE_S)
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)


class _Threads(ThreadPoolExecutor):
    """Threads of a loop, which may be left behind."""

    abandoned = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads, and waits for them unless they are left behind."""
        super().shutdown(wait and not self.abandoned, cancel_futures=cancel_futures or self.abandoned)


@contextlib.contextmanager
def _handlers(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handles signals for a while, where that is possible: Python lets the main thread alone do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
