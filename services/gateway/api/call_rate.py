"""Bounds how often one caller begins calls.

Knows callers and clocks; nothing of what calls do.
"""

import inspect
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import grpc

from live_avatar.services.gateway.access.caller import current_caller
from live_avatar.services.gateway.access.failure_limit import peer_address
from live_avatar.services.gateway.api.authentication import Continuation
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.handlers import Behaviour, Handler, with_behaviour

_BURST_S = 2.0
"""Calls of so long a time may come at once after a pause."""
_CALLERS_KEPT = 10_000


@dataclass
class _Bucket:
    left: float
    at: float


class CallRates:
    """A token bucket per caller; those that have not called for longest are forgotten.

    Args:
        per_s: calls in the long run.
        clock: seconds.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = per_s * _BURST_S
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str) -> None:
        """Counts a call; raises ServiceError RESOURCE_EXHAUSTED/TOO_MANY_CALLS where the caller has made too many."""
        now = self._clock()
        bucket = self._buckets.setdefault(caller, _Bucket(self._burst, now))
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _CALLERS_KEPT:
            self._buckets.popitem(last=False)
        left = min(self._burst, bucket.left + (now - bucket.at) * self._per_s)
        if left < 1:
            message = f"a caller begins {self._per_s:g} calls per second at most"
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
            raise ServiceError(code, "TOO_MANY_CALLS", message, retry_after_s=(1 - left) / self._per_s)
        self._buckets[caller] = _Bucket(left - 1, now)


class CallRateInterceptor(grpc.aio.ServerInterceptor):
    """Rejects calls of callers that begin too many, streams too; belongs behind the one that authenticates them.

    A caller is a credential; without one, a network address.  Callers without a credential on the gateway's own
    machine are not limited: there they are the operator, or one proxy for all.

    Args:
        per_s: calls per second in the long run.
    """

    def __init__(self, per_s: float) -> None:
        self._rates = CallRates(per_s)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        return None if handler is None else with_behaviour(handler, self._bounded)

    def _bounded(self, behaviour: Behaviour) -> Behaviour:
        async def answer(request: Any, context: Any) -> Any:
            self._take(context.peer())
            return await behaviour(request, context)

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            self._take(context.peer())
            async for response in behaviour(request, context):
                yield response

        return answers if inspect.isasyncgenfunction(behaviour) else answer

    def _take(self, peer: str) -> None:
        caller, address = current_caller(), peer_address(peer)
        if caller.key_id:
            self._rates.take(f"{caller.tenant}/{caller.key_id}")
        elif not _is_local(address):
            self._rates.take(address)


def _is_local(address: str) -> bool:
    """On this machine; so is what has no network address."""
    try:
        return ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return True
