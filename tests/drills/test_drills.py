"""The drills themselves: real processes are lost under live sessions, and the right frames come."""

import random
from itertools import islice
from pathlib import Path

import pytest

from drills.faults import deck
from drills.kills import kills
from drills.oracle import places
from drills.packages import ProgramMissingError, find_program
from drills.place import Place
from drills.process import Process
from tests.system.harness.running import QUICK


def test_a_later_loss_at_an_earlier_block_replaces_what_followed() -> None:
    assert places([4, 9]) == [4, 9]
    assert places([4, 9, 7]) == [4, 7]
    assert places([5, 5]) == [5]
    assert places([0]) == []


def test_every_process_is_disturbed_as_often_as_the_others(tmp_path: Path) -> None:
    processes = [Process(name, ["true"], 0, tmp_path / name) for name in "abc"]
    victims = [process.name for process in islice(deck(processes, random.Random(0)), 9)]
    assert all(sorted(victims[start : start + 3]) == ["a", "b", "c"] for start in (0, 3, 6))


def test_a_program_that_cannot_be_had_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ProgramMissingError, match="no-such-program is not installed and cannot be fetched"):
        find_program("no-such-program", ("no-such-package-anywhere",), tmp_path)


@pytest.mark.alone
def test_sessions_outlive_a_few_faults(tmp_path: Path) -> None:
    lines: list[str] = []
    place = Place(out=tmp_path, preset=QUICK, report=lines.append, kills=2, blocks=24)
    numbers = kills(place)
    report = "\n".join(lines)
    assert numbers["kills_sessions_lost"] == 0, report
    assert numbers["kills_wrong_blocks"] == 0, report
    assert numbers["audio_samples_lost"] == 0, report
    assert numbers["kills_places_left"] == numbers["kills_leases_left"] == numbers["kills_sessions_left"] == 0, report
