"""The hop on its own: a real link, a real service in a process."""

from pathlib import Path

import pytest

from benchmarks import hop

pytestmark = pytest.mark.alone


def test_every_block_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hop, "BLOCKS", 5)
    times_s = hop.round_trips(tmp_path, (16, 405_504))
    assert {size: len(several) for size, several in times_s.items()} == {16: 5, 405_504: 5}
    assert all(0 < one < 5 for several in times_s.values() for one in several)
