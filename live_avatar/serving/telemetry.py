"""Traces and metrics of one process: OpenTelemetry, set up by hand and never global.

``Telemetry`` is an ``Observer``: what the hop tells becomes one span per block and service, a child of the trace
context that the block carries (a stream is not a block), and the metrics of ``metrics.py``.  Spans and metrics go to
an OTLP collector where one is named; metrics also to a Prometheus endpoint.  This file does not know the services.
"""

from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any, Self
from wsgiref.simple_server import WSGIServer

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_NAMESPACE, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AnyValue
from prometheus_client import CollectorRegistry, start_http_server

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.proxies import DIRECT, is_local
from live_avatar.serving import metrics
from live_avatar.serving.logs import session_name
from live_avatar.serving.metrics import Metric
from live_avatar.serving.observer import BlockReport
from live_avatar.serving.settings import TelemetrySettings
from live_avatar.v1.avatar_service_pb2 import BlockTiming

_SCOPE = "live_avatar"
_EXPORT_TIMEOUT_S = 2.0
"""A collector that is away must not hold up the end of a process."""
_METRIC_PERIOD_MS = 15_000
_PROPAGATOR = TraceContextTextMapPropagator()

_Endpoint = tuple[WSGIServer, Thread]
_Record = Callable[[float, Mapping[str, str]], None]


class Telemetry:
    """Tracer, meter and exporters of one process; an ``Observer``; a context manager that flushes at its end."""

    def __init__(
        self, name: str, *, span_processors: Sequence[SpanProcessor] = (), metric_readers: Sequence[MetricReader] = ()
    ) -> None:
        """Telemetry of the service ``name`` towards the given processors and readers; none is fine and costs little."""
        resource = Resource.create({SERVICE_NAME: name, SERVICE_NAMESPACE: "live-avatar"})
        self.prometheus_port: int | None = None
        """Port of the Prometheus endpoint, once it listens."""
        self._endpoint: _Endpoint | None = None
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        for processor in span_processors:
            self._traces.add_span_processor(processor)
        self._meters = MeterProvider(metric_readers, resource=resource, shutdown_on_exit=False)
        self._tracer = self._traces.get_tracer(_SCOPE)
        meter = self._meters.get_meter(_SCOPE)
        # A block costs little where nobody listens: neither spans nor numbers are made for it.
        self._has_traces, self._has_metrics = bool(span_processors), bool(metric_readers)
        self._records = {metric: _record(meter, metric) for metric in metrics.METRICS}

    @classmethod
    def start(cls, settings: TelemetrySettings, name: str) -> Self:
        """Telemetry as the operator asked for it.

        Raises:
            OSError: the Prometheus port is taken.
        """
        processors: list[SpanProcessor] = []
        readers: list[MetricReader] = []
        if settings.otlp_endpoint:
            spans, series = _otlp(settings.otlp_endpoint)
            processors.append(spans)
            readers.append(series)
        registry = CollectorRegistry()
        if settings.prometheus_port is not None:
            readers.append(PrometheusMetricReader(disable_target_info=True, registry=registry))
        telemetry = cls(settings.service_name or name, span_processors=processors, metric_readers=readers)
        if settings.prometheus_port is not None:
            telemetry._listen(settings.prometheus_host, settings.prometheus_port, registry)
        return telemetry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def shutdown(self) -> None:
        """Sends what is left and stops; nothing may be recorded afterwards."""
        self._traces.shutdown()
        self._meters.shutdown(timeout_millis=_EXPORT_TIMEOUT_S * 1_000)
        if self._endpoint is not None:
            server, thread = self._endpoint
            server.shutdown()
            server.server_close()
            thread.join()

    def begin_block(self, key: SessionKey, index: int) -> Span:
        """The span of a block's whole way, begun at admission; parent of the span of each service.

        Its ``traceparent`` goes into the block; its caller ends it when the block's video has left.
        """
        attributes: dict[str, AnyValue] = {
            "live_avatar.session": session_name(key.session_id),
            "live_avatar.block": index,
        }
        return self._tracer.start_span("block", attributes=attributes)

    def block_started(self, service: str, key: SessionKey, index: int) -> None:
        """Counts a block on which work begins."""
        self._emit(metrics.BLOCKS_STARTED, 1, service=service)

    def block_finished(self, report: BlockReport) -> None:
        """One span and the times of a block at one service."""
        if self._has_traces:
            self._span(report)
        if not self._has_metrics:
            return
        if report.failure:
            self._emit(metrics.BLOCKS_FAILED, 1, service=report.service, reason=report.failure)
        for name, seconds in _times(report.timing).items():
            self._emit(_TIMES[name], seconds, service=report.service)

    def session_opened(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        """One session and its bytes more."""
        self._emit(metrics.SESSIONS_ACTIVE, 1, service=service)
        self._emit(metrics.SESSION_MEMORY, reserved_bytes, service=service)

    def session_closed(self, service: str, key: SessionKey, reserved_bytes: int) -> None:
        """One session and its bytes less."""
        self._emit(metrics.SESSIONS_ACTIVE, -1, service=service)
        self._emit(metrics.SESSION_MEMORY, -reserved_bytes, service=service)

    def link_changed(self, service: str, target: str, ready: bool) -> None:
        """Whether the services below take work; counts the times that ended."""
        self._emit(metrics.LINK_READY, int(ready), service=service, target=target)
        self._emit(metrics.LINK_LOSSES, int(not ready), service=service, target=target)

    def rpc_finished(self, method: str, code: str, duration_s: float) -> None:
        """One call on the server."""
        self._emit(metrics.RPC_DURATION, duration_s, method=method, code=code)

    def certificate_loaded(self, side: str, expires_s: float) -> None:
        """When the certificate of a side expires."""
        self._emit(metrics.CERTIFICATE_EXPIRY, expires_s, side=side)

    def certificate_rejected(self, side: str) -> None:
        """New certificate files that cannot be used."""
        self._emit(metrics.CERTIFICATES_REJECTED, 1, side=side)

    def capacity(self, service: str, sessions: int) -> None:
        """Sessions that fit at the same time."""
        self._emit(metrics.SESSIONS_CAPACITY, sessions, service=service)

    def admission_rejected(self, reason: str) -> None:
        """A session was refused; ``reason`` as in the error the client got."""
        self._emit(metrics.ADMISSIONS_REJECTED, 1, reason=reason)

    def quota_rejected(self, quota: str) -> None:
        """A session was refused because its tenant has used up ``quota``."""
        self._emit(metrics.QUOTA_REJECTIONS, 1, quota=quota)

    def usage_backlog(self, records: int) -> None:
        """So many usage records wait for the session store."""
        self._emit(metrics.USAGE_BACKLOG, records)

    def webhook_delay(self, seconds: float) -> None:
        """Age of the oldest usage record that was not posted yet."""
        self._emit(metrics.WEBHOOK_DELAY, seconds)

    def first_frame(self, seconds: float) -> None:
        """A session's first picture left the gateway so long after the audio of its first block came."""
        self._emit(metrics.FIRST_FRAME, seconds)

    def audio_starved(self) -> None:
        """A live block holds silence where the rest of an utterance should have come."""
        self._emit(metrics.AUDIO_STARVED, 1)

    def degraded(self, reason: str, sessions: int) -> None:
        """So many live sessions more are degraded, or fewer; ``reason`` as in the event their clients got."""
        self._emit(metrics.SESSIONS_DEGRADED, sessions, reason=reason)

    def viewer_waited(self, reason: str, seconds: float) -> None:
        """A live viewer had nothing to show for so long; ``reason`` as in the event for it."""
        self._emit(metrics.VIEWER_WAITED, seconds, reason=reason)

    def session_suspended(self, reason: str) -> None:
        """A session lost its pipeline or its client for ``reason``, and waits for another."""
        self._emit(metrics.SESSIONS_SUSPENDED, 1, reason=reason)

    def session_recovered(self, reason: str, seconds: float) -> None:
        """A pipeline continues with a session so long after it lost its own for ``reason``."""
        self._emit(metrics.SESSION_RECOVERY, seconds, reason=reason)

    def recovery_failed(self, reason: str) -> None:
        """A session ends that lost its pipeline for ``reason``."""
        self._emit(metrics.RECOVERIES_FAILED, 1, reason=reason)

    def session_moved(self, seconds: float) -> None:
        """A session has moved off a pipeline that is about to end, and admitted no block for so long."""
        self._emit(metrics.SESSION_MOVE, seconds)

    def stream_resumed(self) -> None:
        """A stream took the place of one that broke."""
        self._emit(metrics.STREAMS_RESUMED, 1)

    def issuer_keys(self, count: int) -> None:
        """So many keys of the OIDC issuer are known."""
        self._emit(metrics.ISSUER_KEYS, count)

    def issuer_fetched(self, result: str) -> None:
        """A fetch of the OIDC issuer's keys ended: ``ok`` or ``failed``."""
        self._emit(metrics.ISSUER_FETCHES, 1, result=result)

    def audit_lost(self, sink: str, lines: int) -> None:
        """So many lines of the audit did not reach ``sink``: ``queue``, ``file`` or ``stream``."""
        self._emit(metrics.AUDIT_LOST, lines, sink=sink)

    def _emit(self, metric: Metric, value: float, **labels: str) -> None:
        assert tuple(labels) == metric.labels, f"{metric.name} has labels {metric.labels}, not {tuple(labels)}"
        if self._has_metrics:
            self._records[metric](value, labels)

    def _span(self, report: BlockReport) -> None:
        parent = _PROPAGATOR.extract({"traceparent": report.traceparent})
        attributes: dict[str, AnyValue] = {
            "live_avatar.service": report.service,
            "live_avatar.session": session_name(report.key.session_id),
            "live_avatar.epoch": report.key.epoch,
            "live_avatar.block": report.index,
        }
        for name, seconds in _times(report.timing).items():
            attributes[f"live_avatar.{name}_seconds"] = seconds
        span = self._tracer.start_span(
            report.service, parent, SpanKind.CONSUMER, attributes, start_time=report.arrived_at_ns
        )
        if report.failure:
            span.set_status(Status(StatusCode.ERROR, report.failure))
        span.end(report.sent_at_ns)

    def _listen(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self._endpoint = start_http_server(port, host, registry)
        self.prometheus_port = self._endpoint[0].server_port


def traceparent(span: Span) -> str:
    """W3C trace context of ``span``, for the field of that name in a block."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, set_span_in_context(span))
    return carrier.get("traceparent", "")


_TIMES = {
    "queue_time": metrics.BLOCK_QUEUE,
    "compute_time": metrics.BLOCK_COMPUTE,
    "encode_time": metrics.BLOCK_ENCODE,
    "hop_time": metrics.BLOCK_HOP,
}


def _times(timing: BlockTiming) -> dict[str, float]:
    """The times that were measured, in seconds, by field name."""
    return {field.name: value.ToNanoseconds() / 1e9 for field, value in timing.ListFields() if field.name in _TIMES}


def _otlp(endpoint: str) -> tuple[SpanProcessor, MetricReader]:
    insecure = not endpoint.startswith("https://")
    # Plain text stays inside: such a collector is one of our own services.  The exporters' stubs know texts alone.
    options: Any = DIRECT if insecure or is_local(endpoint) else None
    spans = OTLPSpanExporter(endpoint, insecure=insecure, timeout=_EXPORT_TIMEOUT_S, channel_options=options)
    series = OTLPMetricExporter(endpoint, insecure=insecure, timeout=_EXPORT_TIMEOUT_S, channel_options=options)
    return BatchSpanProcessor(spans), PeriodicExportingMetricReader(
        series, export_interval_millis=_METRIC_PERIOD_MS, export_timeout_millis=_EXPORT_TIMEOUT_S * 1_000
    )


def _record(meter: Meter, metric: Metric) -> _Record:
    """How a value of ``metric`` is recorded."""
    name = f"{metrics.PREFIX}{metric.name}"
    match metric.kind:
        case "counter":
            return meter.create_counter(name, metric.unit, metric.about).add
        case "sum":
            return meter.create_up_down_counter(name, metric.unit, metric.about).add
        case "gauge":
            return meter.create_gauge(name, metric.unit, metric.about).set
        case "histogram":
            buckets = metrics.SECONDS_BUCKETS
            return meter.create_histogram(
                name, metric.unit, metric.about, explicit_bucket_boundaries_advisory=buckets
            ).record
