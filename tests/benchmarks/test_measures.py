import numpy as np
import pytest

from benchmarks.finding.measures import auc, calibration_error, reliability


def test_auc_is_how_often_a_true_one_has_the_higher_value() -> None:
    assert auc([0.9, 0.8, 0.3], [True, True, False]) == 1
    assert auc([0.9, 0.8, 0.3], [False, False, True]) == 0
    assert auc([0.9, 0.5, 0.5, 0.1], [True, True, False, False]) == pytest.approx(3.5 / 4)


def test_what_is_as_true_as_it_says_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    shown = rng.uniform(0, 100, 20_000)
    true = rng.uniform(0, 100, 20_000) < shown
    assert calibration_error(reliability(shown, np.ones(20_000), true)) < 0.02


def test_what_is_shown_as_certain_and_never_true_is_wholly_off() -> None:
    assert calibration_error(reliability([100, 100], [1, 1], [False, False])) == 1


def test_a_search_with_twice_the_weight_counts_twice() -> None:
    (tenth,) = reliability([55, 58], [2, 1], [True, False])
    assert tenth["true"] == pytest.approx(200 / 3)
    assert tenth["shown"] == pytest.approx(56)
