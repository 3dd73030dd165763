"""Portraits of strangers, decoded in processes of their own, with errors that a client can read.

Joins what a file claims, the pool of decoding processes and the field of the request that is at fault.
"""

from dataclasses import asdict
from types import TracebackType
from typing import Self

import grpc

from live_avatar.portrait.header import Header, read_header
from live_avatar.portrait.limits import PortraitError, PortraitLimits
from live_avatar.serving.decode_pool import DecodePool, PoolRules
from live_avatar.serving.decode_process import Answer
from live_avatar.serving.errors import ServiceError

MEASURE = "live_avatar.portrait.jobs:measure"
DRAW = "live_avatar.portrait.jobs:draw"
_LIGHT_BYTES = 2**20
"""Many of those may wait, each in memory."""


class Portraits:
    """Reads portraits; an async context manager.

    Args:
        limits: what files are held to.
        field: of the request that brings them; errors name it.
        rules: of the processes.
        entries: what measures and what draws a portrait, as ``module:function``; see ``live_avatar.portrait.jobs``.
    """

    def __init__(
        self,
        limits: PortraitLimits,
        field: str,
        rules: PoolRules | None = None,
        entries: tuple[str, str] = (MEASURE, DRAW),
    ) -> None:
        self.pool = DecodePool(entries, rules)
        self._measure, self._draw = entries
        self._limits = limits
        self._field = field

    async def __aenter__(self) -> Self:
        await self.pool.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pool.__aexit__(kind, error, trace)

    def check(self, image: bytes) -> Header:
        """What a file claims, without decoding it; raises ServiceError where that breaks a limit."""
        try:
            return read_header(image, self._limits)
        except PortraitError as error:
            raise self._refusal(error) from None

    async def measure(self, image: bytes, needed: int, caller: str = "") -> tuple[int, int]:
        """Height and width of an upright portrait, once it has been decoded.

        Args:
            image: the file.
            needed: longest side at which it will be used; a much larger picture is decoded smaller.
            caller: with whom the others take turns; empty: unknown.

        Raises:
            ServiceError: the portrait cannot be used, or too many wait.
        """
        facts, _ = await self._work(self._measure, image, caller, needed=needed)
        return facts["height"], facts["width"]

    async def draw(self, image: bytes, height: int, width: int, fit: str) -> bytes:
        """The part of a portrait that is shown: ``height`` x ``width`` pixels of RGB, row by row.

        Raises:
            ServiceError: as ``measure``.
        """
        _, pixels = await self._work(self._draw, image, "", height=height, width=width, fit=fit)
        return pixels

    async def _work(self, entry: str, image: bytes, caller: str, **parameters: int | str) -> Answer:
        light = self.check(image).light and len(image) <= _LIGHT_BYTES
        everything = {"limits": asdict(self._limits), **parameters}
        try:
            return await self.pool.work(entry, image, everything, caller=caller, light=light)
        except PortraitError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: PortraitError) -> ServiceError:
        return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, error.reason, str(error), field=self._field)
