"""Pipelines by the EndpointSlices of a Service, as the API server of a cluster reports them.

All of it happens in a thread of its own, since the client blocks: no request of a session waits for it.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from kubernetes.client import DiscoveryV1Api

from live_avatar.services.gateway.cluster import ObjectName
from live_avatar.services.gateway.discovery.slice_watch import SliceWatch, WatchTiming
from live_avatar.services.gateway.discovery.slices import PortNames, Slice, pipelines_of
from live_avatar.services.gateway.discovery.source import Address, Found

_JOIN_S = 1.0


class KubernetesDiscovery:
    """Follows the endpoints of one Service.

    Args:
        api: client of the API server.
        service: whose ready endpoints are pipelines.
        ports: names of the ports of head and decoder.
        timing: waits.
    """

    def __init__(
        self, api: DiscoveryV1Api, service: ObjectName, ports: PortNames, timing: WatchTiming | None = None
    ) -> None:
        self._watch = SliceWatch(api, service, timing or WatchTiming())
        self._ports = ports
        self._known: frozenset[Address] | None = None

    async def run(self, found: Found) -> None:
        """See ``Discovery``; to be called once."""
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[None] = loop.create_future()

        def notify(call: Callable[..., object], argument: object) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(call, argument)

        def live() -> None:
            try:
                self._watch.follow(lambda slices: self._compare(slices, lambda all_of_them: notify(found, all_of_them)))
            except BaseException as error:  # noqa: BLE001 - raised again by whoever awaits ``broken``
                notify(broken.set_exception, error)

        thread = threading.Thread(target=live, name="discovery", daemon=True)
        thread.start()
        try:
            await broken
        finally:
            self._watch.stop()
            await loop.run_in_executor(None, thread.join, _JOIN_S)

    def _compare(self, slices: Mapping[str, Slice], found: Found) -> None:
        """Tells ``found`` where the slices say something new."""
        addresses = pipelines_of(slices.values(), self._ports)
        if addresses != self._known:
            self._known = addresses
            found(addresses)
