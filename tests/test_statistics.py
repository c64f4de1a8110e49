import math

import numpy as np
import pytest
from scipy import stats

from sentinv.evaluation.statistics import band, bootstrap, crossing, group_means, levelled, mean_curve


def test_bootstrap_of_equal_values_is_a_point():
    interval = bootstrap([0.25] * 7)
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.25, 0.25, 0.25, 7)


def test_bootstrap_of_zeros_and_ones_is_the_binomial():
    """Known case: resampled means of k ones among n are Binomial(n, k/n) / n."""
    interval = bootstrap([1.0] * 30 + [0.0] * 70, resamples=40_000)
    low, high = stats.binom(100, 0.3).ppf([0.025, 0.975]) / 100
    assert interval.mean == pytest.approx(0.3)
    assert interval.low == pytest.approx(low, abs=0.011) and interval.high == pytest.approx(high, abs=0.011)


def test_bootstrap_of_many_normal_values_is_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval, half = bootstrap(values), 1.96 * values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    intervals = [bootstrap(random.normal(0, 1, 60), seed=index, resamples=500) for index in range(300)]
    assert 0.90 <= np.mean([interval.low <= 0 <= interval.high for interval in intervals]) <= 0.98


def test_bootstrap_of_twelve_is_too_short():
    """As its docstring says: it covers the mean in 90 % of cases."""
    random = np.random.default_rng(1)
    intervals = [bootstrap(random.normal(0, 1, 12), seed=index, resamples=500) for index in range(2000)]
    assert np.mean([interval.low <= 0 <= interval.high for interval in intervals]) == pytest.approx(0.90, abs=0.02)


def test_bootstrap_is_repeatable_and_needs_values():
    assert bootstrap([1, 2, 5], seed=3) == bootstrap([1, 2, 5], seed=3)
    assert str(bootstrap([1.0])) == "1.000"
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_seeds_of_a_concept_count_once():
    assert group_means([("cat", 1.0), ("cat", 3.0), ("mug", 5.0)]) == [2.0, 5.0]


def test_curves_are_averaged_where_all_have_a_value():
    curves = [[(0, 1.0), (5, 0.5), (10, 0.2)], [(0, 3.0), (10, 0.4)]]
    assert mean_curve(curves) == [(0, 2.0), (10, pytest.approx(0.3))]
    points = band(curves)
    assert [step for step, _ in points] == [0, 10]
    assert points[0][1].low == 1.0 and points[0][1].high == 3.0


def test_levelling_takes_out_what_concepts_differ_in_and_keeps_the_means():
    """Two concepts that differ by a constant only: no band is left, and the means are as they were."""
    arms = {
        "a": {"cat": [(0, 1.0), (5, 0.5)], "mug": [(0, 3.0), (5, 2.5)]},
        "b": {"cat": [(0, 0.8), (5, 0.2), (9, 0.1)], "mug": [(0, 2.8), (5, 2.2), (9, 2.1)]},
    }
    flat = levelled(arms)
    assert levelled({"a": arms["a"]}) == {"a": list(arms["a"].values())}  # one arm has no level apart from itself
    for label, own in arms.items():
        assert mean_curve(flat[label]) == [(s, pytest.approx(v)) for s, v in mean_curve(list(own.values()))]
        assert all(point.high - point.low == pytest.approx(0, abs=1e-12) for _, point in band(flat[label]))
    del arms["b"]["mug"]
    assert levelled(arms)["b"] == [arms["b"]["cat"]]


def test_crossing_of_identical_concepts_has_no_spread():
    fast, slow = [(0, 1.0), (10, 0.5), (20, 0.2)], [(0, 1.0), (100, 0.45), (200, 0.1)]
    found = crossing([fast] * 4, [slow] * 4, 100)
    assert (found.steps, found.low, found.high) == (20, 20, 20)
    never = crossing([fast] * 4, [slow] * 4, 200)
    assert (never.steps, never.low, never.high) == (None, None, None)


def test_crossing_resamples_concepts_in_pairs():
    """Two concepts, one that crosses at 10 and one at 20: resampled means cross at 10 (1/4), 20 otherwise."""
    curves = [[(0, 1.0), (10, 0.4), (20, 0.4)], [(0, 2.0), (10, 2.0), (20, 0.4)]]
    reference = [[(50, 0.5)], [(50, 0.5)]]
    found = crossing(curves, reference, 50)
    assert (found.steps, found.low, found.high) == (20, 10, 20)


def test_crossing_refuses_what_does_not_pair():
    with pytest.raises(ValueError, match="as many"):
        crossing([[(0, 1.0)]], [], 0)
    with pytest.raises(ValueError, match="no value at step 7"):
        crossing([[(0, 1.0)]], [[(0, 1.0)]], 7)


@pytest.mark.parametrize("count", [2, 4])
def test_levelled_bands_are_as_wide_as_those_of_arms_without_levels(count):
    """Oracle: the same deviations of arms by concepts, with no levels to take out, over many draws."""
    widths = []
    for draw in range(60):
        random = np.random.default_rng(draw)
        deviations, levels = random.normal(0, 1, (count, 12)), random.normal(0, 30, 12)
        arms = {f"{arm}": {f"{c}": [(0, levels[c] + deviations[arm, c])] for c in range(12)} for arm in range(count)}
        plain = bootstrap(deviations[0] - deviations[0].mean())
        ((_, flat),) = band(levelled(arms)["0"])
        widths.append((flat.high - flat.low, plain.high - plain.low))
    ours, wanted = np.mean(widths, axis=0)
    assert ours == pytest.approx(wanted, rel=0.05)
