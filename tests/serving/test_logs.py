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
    structlog.get_logger().info("got it", note="x" * 1_000_000)
    assert len(stream.getvalue()) < 5_000
    assert "1000000 characters" in lines(stream)[0]["note"]


def test_session_is_named_by_a_hash(stream: io.StringIO) -> None:
    structlog.get_logger().info("opened", session_id="s-1")
    structlog.get_logger().bind(session_id="s-2").info("opened")
    first, second = lines(stream)
    assert "s-1" not in stream.getvalue()
    assert first["session"] == logs.session_name("s-1")
    assert first["session"] != second["session"]
