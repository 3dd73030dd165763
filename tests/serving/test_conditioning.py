"""Parts make the body that was cut, or a readable refusal."""

import pytest

from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, SessionKey
from live_avatar.serving.conditioning import ConditioningJoiner
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import conditioning_parts

KEY = SessionKey(session_id="session", epoch=1)


def test_bodies_one_after_the_other() -> None:
    joiner = ConditioningJoiner()
    for prompt in ("short", "x" * (3 << 20)):
        body = ConditioningBody(prompt=prompt)
        parts = conditioning_parts(KEY, 4, body.SerializeToString())
        made = [joiner.add(part.conditioning_part) for part in parts]
        assert made == [None] * (len(parts) - 1) + [body]


def test_bytes_that_are_no_body() -> None:
    joiner = ConditioningJoiner()
    (part,) = conditioning_parts(KEY, 0, b"\xff\xff")
    with pytest.raises(ServiceError, match="CONDITIONING_MALFORMED"):
        joiner.add(part.conditioning_part)


def test_parts_of_different_blocks() -> None:
    joiner = ConditioningJoiner()
    first, second, *_ = conditioning_parts(KEY, 0, bytes(3 << 20))
    joiner.add(first.conditioning_part)
    second.conditioning_part.from_block = 4
    with pytest.raises(ServiceError, match="MESSAGE_OUT_OF_ORDER"):
        joiner.add(second.conditioning_part)
