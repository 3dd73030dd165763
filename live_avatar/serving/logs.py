"""Log lines as JSON on stderr, one object a line; media, prompts and tokens never reach them.

Our own loggers (structlog) and those of libraries (logging) leave by the same door.  This file does not know
what is logged, only what must not be.
"""

import hashlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_MAX_TEXT = 4_000
"""Characters of one value at most; a traceback fits, a picture in base64 does not."""
_PRIVATE = frozenset(
    {
        "audio",
        "samples",
        "data",
        "image",
        "reference_image",
        "prompt",
        "text",
        "token",
        "session_token",
        "authorization",
    }
)


def configure(level: str, service: str, stream: TextIO | None = None) -> None:
    """Sets up the logging of the whole process; called once, by the process's main function.

    Args:
        level: debug, info, warning or error.
        service: becomes the key ``service`` of every line.
        stream: where lines go; None: stderr.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _Named(service),
        without_private,
    ]
    handler = logging.StreamHandler(stream or sys.stderr)
    renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def session_name(session_id: str) -> str:
    """Name of a session in logs and traces: tells sessions apart, opens none."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:12]


def without_private(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor that hashes ``session_id``, hides private keys and bytes, and cuts what is too long."""
    if isinstance(event.get("session_id"), str):
        event["session"] = session_name(event.pop("session_id"))
    for key, value in event.items():
        if key in _PRIVATE:
            event[key] = "(private)"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[key] = f"({len(value)} bytes)"
        elif isinstance(value, str) and len(value) > _MAX_TEXT:
            event[key] = value[:_MAX_TEXT] + f"... ({len(value)} characters)"
    return event


class _Named:
    """Processor that adds the name of the service."""

    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", self.service)
        return event
