"""Leader election among gateways by a Lease of the cluster: its holder is the leader.

The rules are those of the cluster's own programs: a holder renews in time; another takes the Lease once it has seen
no renewal for as long as it lasts, by its own clock.  Needs the verbs ``get``, ``create`` and ``update`` on ``leases``
of ``coordination.k8s.io``, and nothing else.

What is done must be safe to be done twice: a holder that is cut off finds out later than its follower.  Where the API
server does not answer for longer than a lease lasts, every gateway does it, since otherwise nobody would.
"""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
import urllib3
from kubernetes.client import ApiException, CoordinationV1Api, V1Lease, V1LeaseSpec, V1ObjectMeta

from live_avatar.services.gateway.cluster import ObjectName

_NOT_FOUND, _CONFLICT = 404, 409
_ANSWER_S = 5.0
_FAULTS = (ApiException, urllib3.exceptions.HTTPError, OSError)
_Clock = Callable[[], float]


class LeaseHolder:
    """Tries to get and to keep one Lease.

    Args:
        api: client of the API server.
        lease: which one; it is made where it does not exist.
        identity: of this gateway; no other has it.
        duration_s: how long the Lease outlives its holder's last renewal, in whole seconds.
        clock: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        api: CoordinationV1Api,
        lease: ObjectName,
        identity: str,
        *,
        duration_s: int = 15,
        clock: _Clock = time.monotonic,
    ) -> None:
        self._api = api
        self._lease = lease
        self._identity = identity
        self._duration_s = duration_s
        self._clock = clock
        self._renewed_at = float("-inf")
        self._answered_at = clock()
        """When the API server last said who holds it."""
        self._unanswered = False
        """The last question had no answer."""
        self._seen: tuple[str | None, datetime | None] = (None, None)
        """Holder and renewal as last read."""
        self._seen_at = clock()
        """Since when they have been so."""
        self._was_leader = False
        self._log = structlog.get_logger(__name__).bind(lease=str(lease), identity=identity)

    @property
    def is_leader(self) -> bool:
        """See ``LeaderElection``."""
        now = self._clock()
        if self._unanswered and now - self._answered_at > self._duration_s:
            return True
        return now - self._renewed_at < self._duration_s

    async def run(self) -> None:
        """See ``LeaderElection``; lets go of the Lease when cancelled."""
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[None] | None = None
        try:
            while True:
                asked = loop.run_in_executor(None, self.renew)
                await asyncio.wait([asked])
                asked.result()
                self._log_change()
                await asyncio.sleep(self._duration_s / 3 * random.uniform(0.75, 1.0))
        finally:
            if asked is not None:  # a renewal under way would take back what is given back
                await asyncio.wait([asked])
            await loop.run_in_executor(None, self.release)

    def renew(self) -> None:
        """Gets or keeps the Lease where that is possible; blocks while the server is asked."""
        try:
            _twice(self._try)
            self._unanswered = False
        except ApiException as error:
            self._unanswered = error.status != _CONFLICT
            if self._unanswered:  # else another was faster
                self._log.warning("the lease could not be renewed", reason=f"{error.status} {error.reason}")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._unanswered = True
            self._log.warning("the API server did not answer", reason=str(error))

    def release(self) -> None:
        """Lets another take the Lease at once, where it is ours; blocks while the server is asked."""
        if self._clock() - self._renewed_at >= self._duration_s:
            return
        self._renewed_at = float("-inf")
        try:
            _twice(self._give_back)
        except _FAULTS as error:
            self._log.warning("the lease was not given back", reason=str(error).splitlines()[0])

    def _give_back(self) -> None:
        lease = self._read()
        if lease is not None and lease.spec is not None and lease.spec.holder_identity == self._identity:
            lease.spec.holder_identity = ""
            self._write(lease)

    def _try(self) -> None:
        asked_at = self._clock()
        lease = self._read()
        self._answered_at = self._clock()
        if lease is None:
            self._create()
        else:
            spec = lease.spec = lease.spec or V1LeaseSpec()
            if not self._may_take(spec):
                self._renewed_at = float("-inf")
                return
            now = _now()
            if spec.holder_identity != self._identity:
                spec.lease_transitions = (spec.lease_transitions or 0) + 1
                spec.acquire_time = now
            spec.holder_identity, spec.renew_time = self._identity, now
            spec.lease_duration_seconds = self._duration_s
            self._write(lease)
        # From the question on, not from the answer: another may count from any moment between.
        self._renewed_at = asked_at

    def _may_take(self, spec: V1LeaseSpec) -> bool:
        """It is ours, nobody's, or was not renewed for as long as its holder promised."""
        seen = (spec.holder_identity, spec.renew_time)
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        if not spec.holder_identity or spec.holder_identity == self._identity:
            return True
        return self._clock() - self._seen_at >= (spec.lease_duration_seconds or self._duration_s)

    def _read(self) -> V1Lease | None:
        try:
            return self._api.read_namespaced_lease(
                self._lease.name, self._lease.namespace, _request_timeout=(_ANSWER_S, _ANSWER_S)
            )
        except ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def _create(self) -> None:
        now = _now()
        spec = V1LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=self._duration_s,
            acquire_time=now,
            renew_time=now,
            lease_transitions=0,
        )
        lease = V1Lease(metadata=V1ObjectMeta(name=self._lease.name), spec=spec)
        self._api.create_namespaced_lease(self._lease.namespace, lease, _request_timeout=(_ANSWER_S, _ANSWER_S))

    def _write(self, lease: V1Lease) -> None:
        """Replaces the Lease as it was read; the server refuses where somebody else has written meanwhile."""
        self._api.replace_namespaced_lease(
            self._lease.name, self._lease.namespace, lease, _request_timeout=(_ANSWER_S, _ANSWER_S)
        )

    def _log_change(self) -> None:
        leads = self.is_leader
        if leads != self._was_leader:
            self._was_leader = leads
            self._log.info("does what one gateway alone should do" if leads else "leaves it to another gateway")


def _twice(ask: Callable[[], None]) -> None:
    """Asks again where an answer is lost or a conflict: what was written may have been our own, as a look will show."""
    try:
        ask()
    except _FAULTS as error:
        if isinstance(error, ApiException) and error.status != _CONFLICT:
            raise
        ask()


def _now() -> datetime:
    """The time, never on a whole second: the server refuses one that is written without microseconds."""
    now = datetime.now(UTC)
    return now.replace(microsecond=max(1, now.microsecond))
