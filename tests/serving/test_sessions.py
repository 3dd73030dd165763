"""Epochs and the table of sessions."""

import pytest

from live_avatar.serving.errors import ServiceError
from live_avatar.serving.sessions import SessionTable
from tests.serving.fakes import key


def test_epochs_only_rise() -> None:
    table = SessionTable()
    assert table.note_epoch(key("a", 3)) is False
    assert table.note_epoch(key("a", 3)) is True
    assert table.note_epoch(key("b", 1)) is False
    with pytest.raises(ServiceError, match="STALE_EPOCH"):
        table.note_epoch(key("a", 2))
    assert table.note_epoch(key("a", 4)) is True


def test_the_memory_of_epochs_is_bounded_and_forgets_the_longest_unused() -> None:
    table = SessionTable(epoch_memory=3)
    for session in ("a", "b", "c"):
        table.note_epoch(key(session, 5))
    table.note_epoch(key("a", 5))
    table.note_epoch(key("d", 5))
    with pytest.raises(ServiceError, match="STALE_EPOCH"):
        table.note_epoch(key("a", 4))
    assert table.note_epoch(key("b", 4)) is False
