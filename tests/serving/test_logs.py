"""Log lines are JSON, whoever writes them, and nothing private is among them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from live_avatar.serving import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    logs.configure("info", "denoise-stage-0", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_lines_and_those_of_libraries_look_alike(stream: io.StringIO) -> None:
    structlog.get_logger("ours").info("block done", index=3)
    logging.getLogger("theirs").warning("only %s left", 2)
    ours, theirs = lines(stream)
    assert (ours["event"], ours["index"], ours["level"], ours["service"]) == (
        "block done",
        3,
        "info",
        "denoise-stage-0",
    )
    assert (theirs["event"], theirs["level"], theirs["service"]) == ("only 2 left", "warning", "denoise-stage-0")
    assert all(line["time"].endswith("Z") for line in (ours, theirs))


def test_level_is_kept(stream: io.StringIO) -> None:
    structlog.get_logger().debug("ours")
    logging.getLogger("theirs").debug("theirs")
    assert lines(stream) == []


def test_traceback_is_in_the_line(stream: io.StringIO) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        structlog.get_logger().exception("broke")
        logging.getLogger("theirs").exception("broke")
    assert len(lines(stream)) == 2
    assert all("KeyError: 'gone'" in line["exception"] for line in lines(stream))


def fail(depth: int, error: Exception) -> None:
    """Raises ``error`` below a deep stack that no two lines of the traceback describe alike."""
    if depth == 0:
        raise error
    # Calls of one line would be folded into "previous line repeated".
    if depth % 2:
        fail(depth - 1, error)
    else:
        fail(depth - 1, error)


def logged(stream: io.StringIO, error: BaseException) -> str:
    """The traceback of ``error`` as it is logged."""
    structlog.get_logger().error("broke", exc_info=error)
    return str(lines(stream)[-1]["exception"])


def caught(depth: int, error: Exception, cause: Exception | None = None) -> Exception:
    """``error`` as raised below a deep stack, because of ``cause``."""
    error.__cause__ = cause
    with pytest.raises(type(error)):
        fail(depth, error)
    return error


def test_a_long_traceback_keeps_its_beginning_and_its_end_where_the_cause_stands(stream: io.StringIO) -> None:
    shown = logged(stream, caught(200, KeyError("the cause")))
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.endswith("KeyError: 'the cause'")
    assert "left out" in shown and len(shown) < 4_200


def test_a_long_chain_of_errors_keeps_the_root_and_the_last(stream: io.StringIO) -> None:
    root = caught(200, KeyError("the root"))
    shown = logged(stream, caught(200, ValueError("the last"), root))
    assert "KeyError: 'the root'" in shown and shown.endswith("ValueError: the last")
    assert "direct cause" in shown and len(shown) < 4_400
    last: Exception = root
    for number in range(30):
        last = caught(20, OSError(f"number {number}"), last)
    shown = logged(stream, last)
    assert "KeyError: 'the root'" in shown and shown.endswith("OSError: number 29")
    assert "errors left out" in shown and len(shown) < 4_600


def test_a_long_message_hides_neither_its_kind_nor_where_it_came_from(stream: io.StringIO) -> None:
    shown = logged(stream, caught(3, ValueError("x" * 50_000 + "the end")))
    assert "ValueError: xxx" in shown and shown.endswith("the end")
    assert "in fail" in shown and len(shown) < 4_200


def test_the_cause_in_one_line_is_no_group_and_has_no_end_of_lines() -> None:
    group = ExceptionGroup("of tasks", [ExceptionGroup("of tasks", [ValueError("first\nsecond")]), KeyError("other")])
    assert logs.cause_of(group) == "ValueError: first second"
    assert logs.cause_of(TimeoutError()) == "TimeoutError"
    long = logs.cause_of(ValueError("x" * 10_000 + "end"))
    assert len(long) < 400 and long.startswith("ValueError: xx") and long.endswith("end")


@pytest.mark.parametrize("key", ["prompt", "audio", "reference_image", "session_token", "authorization"])
def test_private_values_never_appear(stream: io.StringIO, key: str) -> None:
    structlog.get_logger().info("got it", **{key: "a man in a red coat"})
    assert "red coat" not in stream.getvalue()
    assert key in lines(stream)[0]


def test_bytes_are_counted_not_shown(stream: io.StringIO) -> None:
    structlog.get_logger().info("got it", payload=b"abcabc", view=memoryview(b"abc"))
    assert "abc" not in stream.getvalue()
    assert (lines(stream)[0]["payload"], lines(stream)[0]["view"]) == ("(6 bytes)", "(3 bytes)")


def test_long_texts_are_cut(stream: io.StringIO) -> None:
    structlog.get_logger().info("got it", note="x" * 1_000_000 + "the end")
    assert len(stream.getvalue()) < 5_000
    note = lines(stream)[0]["note"]
    assert "1000007 characters" in note and note.startswith("xxx") and note.endswith("the end")


def test_session_is_named_by_a_hash(stream: io.StringIO) -> None:
    structlog.get_logger().info("opened", session_id="s-1")
    structlog.get_logger().bind(session_id="s-2").info("opened")
    first, second = lines(stream)
    assert "s-1" not in stream.getvalue()
    assert first["session"] == logs.session_name("s-1")
    assert first["session"] != second["session"]
