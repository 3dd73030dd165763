"""What holds for every message of a client, whatever it is for: lengths of names and lists, and times.

One walk over the fields that are set, so that a new field of the public API is bounded without a line of its own.
Knows descriptors and the table of limits; nothing of what the messages mean.
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from services.gateway.limits import Limits, refuse

_MAX_ENTRIES = 64
"""Of any list."""
_PROMPT = "prompt"
"""Text of a person's, held to its own limit where it is used."""
_NS_PER_S = 10**9


def check_message(message: Message, limits: Limits, path: str = "") -> None:
    """Holds all names, lists and durations of ``message`` to the table.

    Args:
        message: of a client.
        limits: the table.
        path: of ``message`` in the request, with a dot at its end; empty: it is the request.

    Raises:
        ServiceError: INVALID_ARGUMENT naming the field.
    """
    for field, value in message.ListFields():
        name = path + field.name
        values = value if field.is_repeated else (value,)
        if len(values) > _MAX_ENTRIES:
            refuse("LIST_TOO_LONG", f"{len(values)} entries are more than {_MAX_ENTRIES}", name)
        if field.type == FieldDescriptor.TYPE_STRING:
            _check_texts(name, field.name, values, limits)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            _check_messages(name, values, limits)


def _check_texts(path: str, name: str, values: Iterable[str], limits: Limits) -> None:
    if name == _PROMPT:
        return
    most, longest = limits.max_name_characters, max(map(len, values))
    if longest > most:
        refuse("NAME_TOO_LONG", f"{longest} characters are more than {most}", path)


def _check_messages(path: str, values: Iterable[Any], limits: Limits) -> None:
    for value in values:
        if isinstance(value, Duration):
            _check_duration(path, value, limits.max_session_s)
        else:
            check_message(value, limits, f"{path}.")


def _check_duration(path: str, duration: Duration, most_s: int) -> None:
    """A time in a session is never negative, and never beyond the longest session."""
    lasts_ns = duration.seconds * _NS_PER_S + duration.nanos
    if duration.seconds < 0 or not 0 <= duration.nanos < _NS_PER_S or lasts_ns > most_s * _NS_PER_S:
        refuse("DURATION_OUT_OF_RANGE", f"{path} must lie in 0..{most_s} s", path)
