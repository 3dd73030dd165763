"""Log lines as JSON on stderr, one object a line; media, prompts and tokens never reach them.

Our own loggers (structlog) and those of libraries (logging) leave by the same door.  This file does not know
what is logged, only what must not be.
"""

import hashlib
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_MAX_TEXT = 4_000
"""Characters of one value at most; a picture in base64 does not fit."""
_MAX_LINE = 500
"""Characters of one line of a traceback that is too long."""
_MAX_CAUSE = 300
_CHAINED = re.compile(r"(\n(?:The above exception was|During handling of the above exception)[^\n]*\n)")
_SECTIONS = 4
"""Errors of a chain that are shown where it is too long: the first, which is the root, and the last ones."""
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
    """Name of a session in logs and traces: distinguishes sessions, gives no access."""
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
            event[key] = shorten_traceback(value) if key == "exception" else shorten(value, _MAX_TEXT)
    return event


def shorten(text: str, most: int) -> str:
    """At most ``most`` characters of ``text`` and a mark: its beginning and, since causes stand there, more of its end.

    The mark says how many characters there were and how many are left out.
    """
    if len(text) <= most:
        return text
    head, tail = most // 4, most - most // 4
    left_out = len(text) - head - tail
    return f"{text[:head]} ...({len(text)} characters, {left_out} left out)... {text[len(text) - tail :]}"


def shorten_traceback(text: str) -> str:
    """``shorten`` for a traceback: the root of a chain of errors and the last of them keep their own beginning and end.

    Every line is shortened first, so that a long message hides neither its own kind nor the lines before it.
    """
    text = "\n".join(shorten(line, _MAX_LINE) for line in text.split("\n"))
    if len(text) <= _MAX_TEXT:
        return text
    pieces = _CHAINED.split(text)  # traceback, joint, traceback, joint, ...
    if len(pieces) > 2 * _SECTIONS:
        left_out = len(pieces) // 2 + 1 - _SECTIONS
        pieces = [pieces[0], f"\n...({left_out} errors left out)...\n", *pieces[-2 * _SECTIONS + 3 :]]
    share = _MAX_TEXT // (len(pieces) // 2 + 1)
    return "".join(shorten(piece, share) for piece in pieces)


def cause_of(error: BaseException) -> str:
    """The kind and the text of what ended a program, in one line; of a group the first error that is none."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    name = type(error).__name__
    return shorten(f"{name}: {text}" if text else name, _MAX_CAUSE)


class _Named:
    """Processor that adds the name of the service."""

    def __init__(self, service: str) -> None:
        self.service = service

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", self.service)
        return event
