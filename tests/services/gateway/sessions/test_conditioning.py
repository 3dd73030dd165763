"""Sinks of a session: no block enters before what it is conditioned on is on its way."""

from live_avatar.pipeline.v1.blocks_pb2 import Sink
from live_avatar.services.gateway.sessions.conditioning import Conditioning, Prompts
from live_avatar.v1 import avatar_service_pb2 as api


def test_blocks_wait_for_the_portrait_and_then_for_the_models_own_sink() -> None:
    conditioning = Conditioning(Prompts(api.SessionConfig(), lambda block: None), switch_block=4)
    assert not conditioning.allows(0)
    conditioning.portrait_sent()
    assert [conditioning.allows(block) for block in (0, 3, 4)] == [True, True, False]
    assert not conditioning.is_due(3)
    conditioning.receive_sink(b"sink")
    assert conditioning.is_due(3) and not conditioning.allows(4)
    assert conditioning.new_sink() == b"sink"
    conditioning.sink_sent(4, Sink(version=1))
    assert conditioning.allows(4) and not conditioning.is_due(4)
