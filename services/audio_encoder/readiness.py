"""When the head of a pipeline takes sessions.

Knows what services say of themselves; nothing of what they do.
"""

from collections.abc import Sequence
from typing import Protocol

import structlog

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.serving.chain import shared_devices


class Head(Protocol):
    """As much of a hop as is asked."""

    @property
    def ready(self) -> bool:
        """It and all that follow accept sessions."""

    @property
    def chain(self) -> Sequence[ServiceInfo]:
        """It and all that follow."""


class HeadReadiness:
    """Ready as the hop is, unless services of the pipeline share a device without leave.

    A stage that shares its card takes twice its time, and nobody would see why: better that nothing is served.

    Args:
        hop: the head's.
        allow_shared_devices: services may share devices.
    """

    def __init__(self, hop: Head, *, allow_shared_devices: bool) -> None:
        self._hop = hop
        self._allow_shared_devices = allow_shared_devices
        self._fault = ""
        self._log = structlog.get_logger(__name__)

    def __call__(self) -> bool:
        """Whether sessions are accepted; logs once why not."""
        if not self._hop.ready:
            return False
        fault = "" if self._allow_shared_devices else shared_devices(self._hop.chain)
        if fault and fault != self._fault:
            self._log.error("pipeline refused", reason=fault)
        self._fault = fault
        return not fault
