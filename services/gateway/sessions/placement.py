"""Which pipeline gets a session: the one with most room among some, where a place is reserved in the store.

Of many pipelines only some are looked at, chosen by chance, so that a placement costs the store the same however many
there are; the best of a few such is nearly as good as the best of all (Mitzenmacher, The Power of Two Choices, 2001).
Knows pipelines and the store; nothing of sessions but their records.
"""

import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import grpc

from live_avatar.services.gateway.pipelines.fleet import Fleet
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.serving.errors import CAPACITY_EXHAUSTED, ServiceError, stage_lost
from live_avatar.v1 import avatar_service_pb2 as api

_NO_FAILURES: Mapping[str, int] = {}
_LOOKED_AT = 8
"""Pipelines whose places are counted first; twice as many each time where none of them has room."""


class Placement:
    """Places on all pipelines of one gateway.

    Args:
        store: keeps who has them.
        fleet: the pipelines.
    """

    def __init__(self, store: SessionStore, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet

    async def place(self, record: SessionRecord) -> tuple[SessionRecord, Pipeline]:
        """Reserves a place for a new session.

        Raises:
            ServiceError: STAGE_LOST where no pipeline is ready, CAPACITY_EXHAUSTED where every place is taken.
        """
        async for pipeline, most in self._by_room(self._fleet.pipelines, record):
            placed = await self._store.reserve_slot(record, pipeline.name, most)
            if placed is not None:
                return placed, pipeline
        self._ready()
        raise _full()

    async def move(
        self,
        record: SessionRecord,
        model_digest: str,
        *,
        primed: bool,
        failures: Mapping[str, int] = _NO_FAILURES,
        lost: str | None = None,
    ) -> tuple[SessionRecord, Pipeline]:
        """Reserves a place for a session that goes on, in the next epoch; the one that it had is free.

        Args:
            record: of the session.
            model_digest: what the pipeline must have loaded.
            primed: the pipeline must be able to go on from finished blocks.
            failures: attempts that failed, by pipeline: those with fewer come first.
            lost: None: the session is ours; else the gateway that has it, see ``move.move``.

        Raises:
            ServiceError: as ``place``; NOT_FOUND where the session is gone, over or another gateway's.
        """
        alike = [
            pipeline
            for pipeline in self._ready()
            if pipeline.model_digest == model_digest and (pipeline.primes or not primed)
        ]
        if not alike:
            raise stage_lost("no pipeline that could go on with the session is ready")
        async for pipeline, most in self._by_room(alike, record, failures):
            moved = await self._store.move(record, pipeline.name, most, lost)
            if moved is not None:
                return moved, pipeline
        raise _full()

    def _ready(self) -> Sequence[Pipeline]:
        ready = [pipeline for pipeline in self._fleet.pipelines if pipeline.ready]
        if not ready:
            raise stage_lost("no pipeline is ready")
        return ready

    async def _by_room(
        self, pipelines: Sequence[Pipeline], record: SessionRecord, failures: Mapping[str, int] = _NO_FAILURES
    ) -> AsyncIterator[tuple[Pipeline, int]]:
        """Ready ones that may have room and how many sessions each takes; of those looked at together the best first.

        Args:
            pipelines: among which to choose.
            record: of the session.
            failures: see ``move``.
        """
        live = api.SessionConfig.FromString(record.config).delivery == api.DELIVERY_LIVE
        for group in _groups(pipelines):
            some = [one for one in group if one.ready]
            most = {one.name: one.live_capacity if live else one.capacity for one in some}
            taken = await self._store.count_all_slots(most) if some else {}
            some.sort(key=lambda one: (failures.get(one.name, 0), taken[one.name] - most[one.name]))
            for one in some:
                if taken[one.name] < most[one.name] or one.name == record.pipeline:
                    yield one, most[one.name]


def _groups(pipelines: Sequence[Pipeline]) -> Iterator[list[Pipeline]]:
    """All of ``pipelines``, by chance, in groups that grow; where the first is enough, the others cost nothing."""
    first = random.sample(pipelines, min(_LOOKED_AT, len(pipelines)))
    yield first
    names = {one.name for one in first}
    rest = [one for one in pipelines if one.name not in names]
    random.shuffle(rest)
    count = 2 * _LOOKED_AT
    while rest:
        yield rest[:count]
        rest, count = rest[count:], 2 * count


def _full() -> ServiceError:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return ServiceError(code, CAPACITY_EXHAUSTED, "every place on every pipeline is taken")
