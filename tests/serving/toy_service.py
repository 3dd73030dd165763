"""A service that a test runs as a process of its own; what it does is chosen by its flags."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from pydantic import Field

from live_avatar.pipeline.v1.blocks_pb2 import DESCRIPTOR, GetServiceInfoRequest, GetServiceInfoResponse
from live_avatar.pipeline.v1.blocks_pb2_grpc import PipelineServiceServicer, add_PipelineServiceServicer_to_server
from live_avatar.serving.server import Service, run
from live_avatar.serving.settings import Settings, load
from live_avatar.serving.telemetry import Telemetry


class ToySettings(Settings):
    """Settings of the toy."""

    fault: str = Field(default="", description="weights, bug, late-bug, slow-load or not-ready")
    drain_takes: float = Field(default=0, description="seconds")


class Toy(PipelineServiceServicer):
    """Answers one question, slowly if asked to."""

    async def GetServiceInfo(self, request: GetServiceInfoRequest, context: object) -> GetServiceInfoResponse:
        """Says that it is there."""
        return GetServiceInfoResponse(ready=True)

    async def StreamBlocks(self, request_iterator: object, context: object) -> None:  # type: ignore[override]
        """Never answers; takes its time to let go."""
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(1)
            sys.stderr.write('{"event": "let go"}\n')


def main() -> int:
    """Runs the toy."""
    settings = load(ToySettings, program="toy")

    @contextlib.asynccontextmanager
    async def build(telemetry: Telemetry) -> AsyncIterator[Service]:
        if settings.fault == "weights":
            raise ValueError("weights: dit.safetensors:\ntruncated")
        if settings.fault == "bug":
            raise KeyError("a bug")
        if settings.fault == "slow-load":
            await asyncio.sleep(60)
        yield Service(
            register=lambda server: add_PipelineServiceServicer_to_server(Toy(), server),
            grpc_names=[DESCRIPTOR.services_by_name["PipelineService"].full_name],
            loaded={"preset": "TINY"},
            ready=lambda: settings.fault != "not-ready",
            alive=lambda: 1 / (settings.fault != "late-bug") > 0,
            drain=lambda: asyncio.sleep(settings.drain_takes),
        )
        sys.stderr.write('{"event": "freed"}\n')

    return run("toy", settings.server, settings.telemetry, build)


if __name__ == "__main__":
    sys.exit(main())
