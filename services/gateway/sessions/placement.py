"""Which pipeline gets a session: the one with most room, where a place is reserved in the store.

Knows pipelines and the store; nothing of sessions but their records.
"""

from collections.abc import Mapping, Sequence

import grpc

from live_avatar.services.gateway.pipelines.fleet import Fleet
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.serving.errors import CAPACITY_EXHAUSTED, ServiceError, stage_lost
from live_avatar.v1 import avatar_service_pb2 as api


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
        for pipeline, most in await self._by_room(self._ready(), record):
            placed = await self._store.reserve_slot(record, pipeline.name, most)
            if placed is not None:
                return placed, pipeline
        raise _full()

    async def move(
        self, record: SessionRecord, model_digest: str, *, primed: bool, failures: Mapping[str, int]
    ) -> tuple[SessionRecord, Pipeline]:
        """Reserves a place for a session that goes on, in the next epoch; the one that it had is free.

        Args:
            record: of the session.
            model_digest: what the pipeline must have loaded.
            primed: the pipeline must be able to go on from finished blocks.
            failures: attempts that failed, by pipeline: those with fewer come first.

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
        by_room = await self._by_room(alike, record)
        for pipeline, most in sorted(by_room, key=lambda one: failures.get(one[0].name, 0)):
            moved = await self._store.move(record, pipeline.name, most)
            if moved is not None:
                return moved, pipeline
        raise _full()

    def _ready(self) -> Sequence[Pipeline]:
        ready = [pipeline for pipeline in self._fleet.pipelines if pipeline.ready]
        if not ready:
            raise stage_lost("no pipeline is ready")
        return ready

    async def _by_room(self, pipelines: Sequence[Pipeline], record: SessionRecord) -> Sequence[tuple[Pipeline, int]]:
        """Pipelines and how many sessions each takes, the one with most room first."""
        live = api.SessionConfig.FromString(record.config).delivery == api.DELIVERY_LIVE
        most = {pipeline.name: pipeline.live_capacity if live else pipeline.capacity for pipeline in pipelines}
        taken = await self._store.count_all_slots(most)
        by_room = sorted(pipelines, key=lambda one: taken[one.name] - most[one.name])
        return [(pipeline, most[pipeline.name]) for pipeline in by_room]


def _full() -> ServiceError:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return ServiceError(code, CAPACITY_EXHAUSTED, "every place on every pipeline is taken")
