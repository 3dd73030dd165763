"""Arithmetic of the measurements."""

import pytest

from benchmarks.stats import fairness, percentile, rate


def test_percentile_is_a_measured_value() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]


def test_percentile_of_few_values_is_never_too_good() -> None:
    assert percentile([1.0, 2.0, 9.0], 99) == 9
    assert percentile([1.0, 2.0, 9.0], 50) == 2
    assert percentile([1.0, 2.0, 9.0, 10.0], 50) == 2


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_percentile_refuses_a_percent_that_is_none(percent: float) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.100"):
        percentile([1.0], percent)


def test_nothing_measured_is_no_number() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)
    for rates in ([], [0.0, 0.0]):
        with pytest.raises(ValueError, match="nothing was measured"):
            fairness(rates)


def test_fairness_of_equals_and_of_one_who_has_all() -> None:
    assert fairness([5.0, 5.0, 5.0, 5.0]) == 1
    assert fairness([5.0, 0.0, 0.0, 0.0]) == 0.25


def test_rate_leaves_out_the_beginning() -> None:
    arrivals = [0.0, 10.0, 10.5, 11.0, 11.5]
    assert rate(arrivals, 12, 1) == 24


def test_rate_needs_a_steady_part() -> None:
    with pytest.raises(ValueError, match="too few"):
        rate([0.0, 1.0], 12, 1)
