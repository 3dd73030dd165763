"""A hop as a service of its own."""

import asyncio
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.serving.hop_service import running_hop
from live_avatar.serving.pipeline_settings import PipelineSettings
from live_avatar.serving.settings import TelemetrySettings
from live_avatar.serving.telemetry import Telemetry
from tests.serving.fakes import FakeWork


def test_a_service_reports_its_room_before_its_first_session() -> None:
    info = ServiceInfo(role=ServiceInfo.ROLE_VAE_DECODER, name="vae-decoder", session_capacity=7)

    async def scrape(telemetry: Telemetry) -> str:
        with ThreadPoolExecutor(1) as device:
            async with running_hop(
                info, FakeWork(last=True), device, settings=PipelineSettings(), target=None, observer=telemetry
            ):
                url = f"http://127.0.0.1:{telemetry.prometheus_port}/metrics"
                return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())

    with Telemetry.start(TelemetrySettings(prometheus_port=0), "vae-decoder") as telemetry:
        reported = asyncio.run(scrape(telemetry))
    assert re.search(r'^live_avatar_sessions_capacity\{.*service="vae-decoder"\} 7\.0$', reported, flags=re.MULTILINE)
