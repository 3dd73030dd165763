"""One span per block and service under the block's trace; metrics on a real scrape, the documented ones alone."""

import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.serving import metrics
from live_avatar.serving.observer import BlockReport, Observer
from live_avatar.serving.settings import TelemetrySettings
from live_avatar.serving.telemetry import Telemetry, traceparent
from live_avatar.v1.avatar_service_pb2 import BlockTiming

DOC = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
KEY = SessionKey(session_id="secret-session-id", epoch=2)
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
CHAIN = ("audio-encoder", "denoise-stage-0", "denoise-stage-1", "vae-decoder")


def timing(**milliseconds: int) -> BlockTiming:
    message = BlockTiming()
    for name, value in milliseconds.items():
        getattr(message, name).FromMilliseconds(value)
    return message


def report(service: str, index: int = 0, *, parent: str = PARENT, failure: str = "") -> BlockReport:
    return BlockReport(
        service=service,
        key=KEY,
        index=index,
        traceparent=parent,
        arrived_at_ns=1_000_000_000,
        sent_at_ns=1_250_000_000,
        timing=timing(queue_time=20, compute_time=200, hop_time=5),
        failure=failure,
    )


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(spans: InMemorySpanExporter) -> Iterator[Telemetry]:
    with Telemetry("test", span_processors=[SimpleSpanProcessor(spans)]) as telemetry:
        yield telemetry


def scrape(telemetry: Telemetry) -> dict[str, Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{telemetry.prometheus_port}/metrics", timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in families}


def value(family: Metric, suffix: str = "", **labels: str) -> float:
    """The one sample of ``family`` whose labels include ``labels``."""
    found = [
        sample.value
        for sample in family.samples
        if sample.name.endswith(suffix or sample.name) and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, f"{family.name}{suffix} {labels}: {found}"
    return found[0]


def test_telemetry_is_an_observer(telemetry: Telemetry) -> None:
    observer: Observer = telemetry
    observer.block_started("a", KEY, 0)


def test_each_service_adds_one_span_per_block_under_the_blocks_trace(
    telemetry: Telemetry, spans: InMemorySpanExporter
) -> None:
    for index in range(2):
        for service in CHAIN:
            telemetry.block_finished(report(service, index))
    finished = spans.get_finished_spans()
    assert [(span.name, attribute(span, "block")) for span in finished] == [(s, i) for i in range(2) for s in CHAIN]
    for span in finished:
        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" == PARENT[3:-3]
        assert f"{span.get_span_context().trace_id:032x}" == PARENT[3:35]  # type: ignore[union-attr]
        assert (span.start_time, span.end_time) == (1_000_000_000, 1_250_000_000)
        assert attribute(span, "compute_time_seconds") == 0.2
        assert span.status.is_unset


def attribute(span: ReadableSpan, name: str) -> object:
    assert span.attributes is not None
    return span.attributes[f"live_avatar.{name}"]


def test_spans_of_two_processes_join_the_block_that_the_gateway_began(
    telemetry: Telemetry, spans: InMemorySpanExporter
) -> None:
    root = telemetry.begin_block(KEY, 7)
    context = traceparent(root)
    with Telemetry("other", span_processors=[SimpleSpanProcessor(spans)]) as other:
        telemetry.block_finished(report("audio-encoder", 7, parent=context))
        other.block_finished(report("vae-decoder", 7, parent=context))
        root.end()
        first, second, block = spans.get_finished_spans()
    assert block.name == "block"
    assert block.parent is None
    for span in (first, second):
        assert span.parent is not None
        assert span.parent.span_id == root.get_span_context().span_id
        assert span.parent.trace_id == root.get_span_context().trace_id
    assert (first.resource.attributes["service.name"], second.resource.attributes["service.name"]) == ("test", "other")


@pytest.mark.parametrize("parent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_block_without_a_trace_begins_its_own(telemetry: Telemetry, spans: InMemorySpanExporter, parent: str) -> None:
    telemetry.block_finished(report("vae-decoder", parent=parent))
    (span,) = spans.get_finished_spans()
    assert span.parent is None


def test_failed_block_is_an_error_with_its_reason(telemetry: Telemetry, spans: InMemorySpanExporter) -> None:
    telemetry.block_finished(report("vae-decoder", failure="INTERNAL"))
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "INTERNAL")


def test_session_id_is_in_no_span(telemetry: Telemetry, spans: InMemorySpanExporter) -> None:
    telemetry.block_finished(report("vae-decoder"))
    telemetry.begin_block(KEY, 0).end()
    assert all(KEY.session_id not in span.to_json() for span in spans.get_finished_spans())


def record_everything(telemetry: Telemetry) -> None:
    telemetry.block_started("s", KEY, 0)
    finished = report("s")
    finished.timing.encode_time.FromMilliseconds(3)
    telemetry.block_finished(finished)
    telemetry.block_finished(report("s", 1, failure="STALE_EPOCH"))
    telemetry.session_opened("s", KEY, 700)
    telemetry.session_opened("s", KEY, 300)
    telemetry.session_closed("s", KEY, 700)
    telemetry.link_changed("s", "localhost:1", True)
    telemetry.link_changed("s", "localhost:1", False)
    telemetry.rpc_finished("/p.S/M", "OK", 0.5)
    telemetry.capacity("s", 4)
    telemetry.admission_rejected("CAPACITY_EXHAUSTED")
    telemetry.quota_rejected("max_concurrent_sessions")
    telemetry.usage_backlog(3)
    telemetry.webhook_delay(2.5)
    telemetry.first_frame(1.5)
    telemetry.audio_starved()
    telemetry.degraded("PIPELINE_SLOW", 2)
    telemetry.degraded("PIPELINE_SLOW", -1)
    telemetry.viewer_waited("PIPELINE_SLOW", 0.4)
    telemetry.session_suspended("STAGE_LOST")
    telemetry.session_recovered("STAGE_LOST", 0.7)
    telemetry.recovery_failed("STAGE_LOST")
    telemetry.session_moved(0.3)
    telemetry.stream_resumed()
    telemetry.issuer_keys(2)
    telemetry.audit_lost("stream", 3)
    telemetry.issuer_fetched("ok")
    telemetry.certificate_loaded("server", 2e9)
    telemetry.certificate_rejected("server")


def test_scrape_shows_what_was_reported() -> None:
    with Telemetry.start(TelemetrySettings(prometheus_port=0), "test") as telemetry:
        record_everything(telemetry)
        seen = scrape(telemetry)
    assert value(seen["live_avatar_block_compute_seconds"], "_count", service="s") == 2
    assert value(seen["live_avatar_block_compute_seconds"], "_sum", service="s") == pytest.approx(0.4)
    assert value(seen["live_avatar_block_queue_seconds"], "_sum", service="s") == pytest.approx(0.04)
    assert value(seen["live_avatar_block_hop_seconds"], "_sum", service="s") == pytest.approx(0.01)
    assert value(seen["live_avatar_block_encode_seconds"], "_count", service="s") == 1
    assert value(seen["live_avatar_blocks_failed_total"], "_total", service="s", reason="STALE_EPOCH") == 1
    assert value(seen["live_avatar_blocks_started_total"], "_total", service="s") == 1
    assert value(seen["live_avatar_sessions_active"], service="s") == 1
    assert value(seen["live_avatar_session_memory_bytes"], service="s") == 300
    assert value(seen["live_avatar_sessions_capacity"], service="s") == 4
    assert value(seen["live_avatar_link_ready"], service="s", target="localhost:1") == 0
    assert value(seen["live_avatar_link_losses_total"], "_total", service="s", target="localhost:1") == 1
    assert value(seen["live_avatar_rpc_duration_seconds"], "_sum", method="/p.S/M", code="OK") == 0.5
    assert value(seen["live_avatar_admissions_rejected_total"], "_total", reason="CAPACITY_EXHAUSTED") == 1
    assert value(seen["live_avatar_quota_rejections_total"], "_total", quota="max_concurrent_sessions") == 1
    assert value(seen["live_avatar_usage_backlog"]) == 3
    assert value(seen["live_avatar_usage_webhook_delay_seconds"]) == 2.5
    assert value(seen["live_avatar_time_to_first_frame_seconds"], "_sum") == 1.5
    assert value(seen["live_avatar_sessions_degraded"], reason="PIPELINE_SLOW") == 1
    waited = value(seen["live_avatar_viewer_waited_seconds_total"], "_total", reason="PIPELINE_SLOW")
    assert waited == pytest.approx(0.4)


def test_a_scrape_the_table_and_the_document_name_the_same_metrics() -> None:
    with Telemetry.start(TelemetrySettings(prometheus_port=0), "test") as telemetry:
        record_everything(telemetry)
        scraped = set(scrape(telemetry))
    assert scraped == {metric.exported for metric in metrics.METRICS}
    documented = re.findall(r"^\| `(live_avatar_\w+)` \| (\w+) \| (.*?) \|", DOC.read_text(), flags=re.MULTILINE)
    assert documented == [
        (m.exported, m.kind.replace("sum", "gauge"), ", ".join(f"`{label}`" for label in m.labels) or "-")
        for m in metrics.METRICS
    ]
    assert all(name.startswith("live_avatar_") for name in scraped)


def test_endpoint_is_gone_after_the_end() -> None:
    with Telemetry.start(TelemetrySettings(prometheus_port=0), "test") as telemetry:
        port = telemetry.prometheus_port
        assert port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_two_telemetries_in_one_process_share_nothing() -> None:
    settings = TelemetrySettings(prometheus_port=0)
    with Telemetry.start(settings, "a") as first, Telemetry.start(settings, "b") as second:
        first.capacity("a", 1)
        assert list(scrape(first)) == ["live_avatar_sessions_capacity"]
        assert scrape(second) == {}


class Collector(TraceServiceServicer, MetricsServiceServicer):
    """An OTLP collector that keeps names."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(request, ExportTraceServiceRequest):
            scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
            self.names |= {span.name for scope in scopes for span in scope.spans}
            return ExportTraceServiceResponse()
        scoped = [scope for resource in request.resource_metrics for scope in resource.scope_metrics]
        self.names |= {metric.name for scope in scoped for metric in scope.metrics}
        return ExportMetricsServiceResponse()


def test_collector_gets_spans_and_metrics_at_the_end_at_the_latest() -> None:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    add_MetricsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Telemetry.start(TelemetrySettings(otlp_endpoint=f"http://127.0.0.1:{port}"), "test") as telemetry:
        telemetry.block_finished(report("vae-decoder"))
    server.stop(0).wait()
    assert {"vae-decoder", "live_avatar_block_compute", "live_avatar_block_queue"} <= collector.names


def test_collector_that_is_away_does_not_hold_up_the_end() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        telemetry = Telemetry.start(TelemetrySettings(otlp_endpoint=endpoint), "test")
        telemetry.block_finished(report("s"))
        began = time.monotonic()
        telemetry.shutdown()
    assert time.monotonic() - began < 6


def test_label_that_the_table_does_not_name_is_our_own_mistake(telemetry: Telemetry) -> None:
    with pytest.raises(AssertionError, match="sessions_capacity"):
        telemetry._emit(metrics.SESSIONS_CAPACITY, 1, stage="0")
