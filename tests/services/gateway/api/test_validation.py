"""What holds for every message of a client: each name, list and time in the public API, found by its descriptor."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from live_avatar.services.gateway.access.tokens import MAX_CHARACTERS
from live_avatar.services.gateway.api.validation import check_message
from live_avatar.services.gateway.limits import Limits
from live_avatar.serving.errors import ServiceError
from live_avatar.v1 import avatar_service_pb2 as api

LIMITS = Limits()
REQUESTS = [method.input_type for method in api.DESCRIPTOR.services_by_name["AvatarService"].methods]
Path = tuple[FieldDescriptor, ...]
MOST_S = LIMITS.max_session_seconds
BAD_DURATIONS = {
    "negative": Duration(seconds=-1),
    "beyond all time": Duration(seconds=2**62),
    "before all time": Duration(seconds=-(2**62)),
    "beyond the longest session": Duration(seconds=MOST_S + 1),
    "a little beyond the longest session": Duration(seconds=MOST_S, nanos=1),
    "too many nanos": Duration(seconds=1, nanos=10**9),
    "nanos of the wrong sign": Duration(seconds=1, nanos=-1),
    "negative nanos": Duration(nanos=-1),
    "negative with positive nanos": Duration(seconds=-1, nanos=5),
}


def paths(descriptor: Descriptor, before: Path = ()) -> Iterator[Path]:
    """Every field of a message and of those within it."""
    for field in descriptor.fields:
        yield (*before, field)
        if field.message_type is not None and field.message_type is not Duration.DESCRIPTOR:
            yield from paths(field.message_type, (*before, field))


def found(wanted: object) -> list[tuple[Descriptor, Path]]:
    every = [(request, path) for request in REQUESTS for path in paths(request)]
    return [(request, path) for request, path in every if path[-1].message_type is wanted]


def named(path: Path) -> str:
    return ".".join(field.name for field in path)


def holding(request: Descriptor, path: Path, value: Any) -> Message:
    """A request with ``value`` in the field at ``path``."""
    message = GetMessageClass(request)()
    inner: Any = message
    for field in path[:-1]:
        inner = getattr(inner, field.name)
        inner = inner.add() if field.is_repeated else inner
    last = path[-1]
    if last.is_repeated:
        getattr(inner, last.name).append(value)
    elif isinstance(value, Message):
        getattr(inner, last.name).CopyFrom(value)
    else:
        setattr(inner, last.name, value)
    return message


def refused(message: Message) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        check_message(message, LIMITS)
    return caught.value


@pytest.mark.parametrize("kind", BAD_DURATIONS)
def test_every_duration_of_a_client_is_a_time_of_a_session(kind: str) -> None:
    durations = found(Duration.DESCRIPTOR)
    assert {named(path) for _, path in durations} >= {"max_duration", "playback_report.played_through_time"}
    for request, path in durations:
        error = refused(holding(request, path, BAD_DURATIONS[kind]))
        assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "DURATION_OUT_OF_RANGE")
        assert error.field == named(path)
        for good in (Duration(), Duration(seconds=MOST_S), Duration(nanos=10**9 - 1)):
            check_message(holding(request, path, good), LIMITS)


def test_every_name_of_a_client_is_short() -> None:
    texts = [one for one in found(None) if one[1][-1].type == FieldDescriptor.TYPE_STRING]
    names = [(request, path) for request, path in texts if path[-1].name != "prompt"]
    assert len(names) >= 12
    for request, path in names:
        most = MAX_CHARACTERS if path[-1].name == "session_token" else LIMITS.max_name_characters
        error = refused(holding(request, path, "a" * (most + 1)))
        assert (error.reason, error.field) == ("NAME_TOO_LONG", named(path))
        check_message(holding(request, path, "ä" * most), LIMITS)


def test_every_list_of_a_client_is_short() -> None:
    request = api.UpdateSessionRequest()
    request.update_mask.paths.extend(["prompt"] * 65)
    assert (refused(request).reason, refused(request).field) == ("LIST_TOO_LONG", "update_mask.paths")
