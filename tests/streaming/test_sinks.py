"""The rolling-sink rule: block 0 makes the sink that holds from the block of the switch."""

from dataclasses import replace

import pytest
import torch

from live_avatar.streaming.sinks import SinkSchedule
from tests.streaming.small_pipeline import RULES, sink, text

SCHEDULE = SinkSchedule(RULES)
LATENT = torch.arange(3.0).reshape(1, 3, 1, 1)


def test_a_session_starts_with_the_portrait() -> None:
    portrait, prompt = sink(), text()
    first = SCHEDULE.first(portrait, prompt)
    assert (first.from_block, first.sink, first.text) == (0, portrait, prompt)


@pytest.mark.parametrize("switch", [1, 2, 4])
def test_the_first_latent_of_block_0_holds_from_the_switch(switch: int) -> None:
    portrait = sink()
    change = SinkSchedule(replace(RULES, sink_switch_block=switch)).after_block(0, LATENT, portrait)
    assert change is not None and change.sink is not None
    assert (change.from_block, change.sink.version, change.text) == (switch, 1, None)
    assert torch.equal(change.sink.reference, LATENT[:, :1])
    assert change.sink.motion is portrait.motion


@pytest.mark.parametrize("index", [1, 2, 3, 1000])
def test_later_blocks_change_nothing(index: int) -> None:
    assert SCHEDULE.own_latent(index, LATENT) is None
    assert SCHEDULE.after_block(index, LATENT, sink()) is None
