"""How a score becomes a percentage, and what it is compared with."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from search.engine.index.match_fit import (
    USUAL,
    MatchFit,
    background_of,
    calibration_error,
    contrast,
    fit_line,
    held_out_error,
    still_serves,
    usual_line,
)
from search.engine.model.weights import builtin_weights


def fit_of(images: int = 600, *, nearest_low: float | None = 0.6) -> MatchFit:
    return MatchFit(6.5, -3.1, images, 60, 0.05, background=0.7, nearest_low=nearest_low, nearest_median=0.8)


def never(place: int) -> bool:
    return False


def same_as_first(*places: int) -> Callable[[int], bool]:
    return lambda place: place in places


def test_the_formula_is_the_one_of_the_documentation() -> None:
    # 6.5 * ln(0.302 / 0.102) - 3.1 = 3.9555
    assert fit_of().percent(0.9, 0.7) == 98.1


def test_a_result_no_better_than_the_background_hardly_matches_and_an_exact_copy_does() -> None:
    assert fit_of().percent(0.7, 0.7) == 4.3
    assert fit_of().percent(1, 0.7) == 100
    assert fit_of().percent(-1, 0.7) == 0
    assert fit_of().percent(1, 1) == 4.3


def test_the_higher_a_score_the_higher_the_match_and_the_higher_the_background_the_lower() -> None:
    by_score = [fit_of().percent(score, 0.7) for score in np.linspace(0.6, 1, 21)]
    by_background = [fit_of().percent(0.9, background) for background in np.linspace(0.6, 0.95, 21)]
    assert by_score == sorted(by_score)
    assert by_background == sorted(by_background, reverse=True)
    assert len({*by_score, *by_background}) > 30


@pytest.mark.parametrize("slope", [1e-300, 1e300])
def test_whatever_line_an_index_brings_a_match_is_from_0_to_100(slope: float) -> None:
    fit = MatchFit(slope, -1e300, 100, 60, 0.0, 0.7, 0.6, 0.8)
    assert 0 <= fit.percent(1, 0.1) <= 100
    assert 0 <= fit.percent(-1, 1) <= 100


def test_the_background_is_the_fifth_result() -> None:
    assert background_of([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], never) == 0.5


def test_copies_of_the_first_result_are_passed_over_on_the_way_to_the_background() -> None:
    scores = [0.9, 0.89, 0.88, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert background_of(scores, same_as_first(1, 2)) == 0.4
    assert background_of(scores, same_as_first(7)) == 0.6


@pytest.mark.parametrize("scores", [[], [0.9], [0.9, 0.8, 0.7, 0.6]])
def test_fewer_than_five_results_have_no_background(scores: list[float]) -> None:
    assert background_of(scores, never) is None
    assert background_of([0.99, 0.99, *scores], same_as_first(1, 2)) is None


def test_no_more_results_are_compared_with_the_first_than_needed() -> None:
    asked = []
    background_of([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], lambda place: bool(asked.append(place)))
    assert asked == [1, 2, 3, 4]


def drawn(slope: float, offset: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    contrasts = rng.uniform(0, 1.5, count)
    return contrasts, rng.random(count) < 1 / (1 + np.exp(-(slope * contrasts + offset)))


@pytest.mark.parametrize(("slope", "offset"), [(6.5, -3.1), (2.0, -1.5), (30.0, -20.0)])
def test_the_regression_finds_the_line_that_the_labels_were_drawn_from(slope: float, offset: float) -> None:
    found = fit_line(*drawn(slope, offset))
    assert found == pytest.approx((slope, offset), rel=0.06)


def test_perfectly_separated_labels_give_a_finite_line_that_separates_them() -> None:
    contrasts, is_match = np.array([0.1, 0.2, 0.9, 1.2]), np.array([False, False, True, True])
    slope, offset = fit_line(contrasts, is_match)
    assert np.isfinite([slope, offset]).all()
    assert slope * 0.2 + offset < 0 < slope * 0.9 + offset


@pytest.mark.parametrize(
    ("contrasts", "is_match"),
    [
        ([0.1, 0.5, 0.9, 1.1], [True, True, True, True]),
        ([0.1, 0.5, 0.9, 1.1], [False, False, False, False]),
        ([0.5, 0.5, 0.5, 0.5], [True, False, True, False]),
        ([0.1, 0.9, 0.1, 0.9], [True, True, False, False]),
        ([0.1, 0.2, 0.9, 1.1], [True, True, False, False]),  # the nearer, the less it is the same
    ],
)
def test_labels_that_say_nothing_leave_the_usual_line(contrasts: list[float], is_match: list[bool]) -> None:
    assert fit_line(np.array(contrasts), np.array(is_match), usual=(5.0, -2.0)) == (5.0, -2.0)


def test_the_built_in_weights_have_a_usual_line_of_their_own() -> None:
    assert usual_line(builtin_weights().passport.fingerprint) == (3.3, -3.3)
    assert usual_line("a" * 64) == USUAL == (6.5, -3.1)


def test_calibration_is_perfect_where_shares_are_as_said_and_bad_where_all_is_overstated() -> None:
    is_match = np.array([True] * 8 + [False] * 2)
    assert calibration_error(np.full(10, 0.8), is_match) == pytest.approx(0)
    assert calibration_error(np.full(10, 1.0), is_match) == pytest.approx(0.2)


def test_the_error_of_a_line_is_that_of_pictures_that_it_has_not_seen() -> None:
    contrasts, is_match = drawn(6.5, -3.1, 1000)
    assert held_out_error(contrasts, is_match, np.arange(1000) // 6) < 0.05
    shuffled = np.random.default_rng(0).permutation(is_match[:40])
    assert held_out_error(contrasts[:40], shuffled, np.arange(40)) > 0.05


def test_the_contrast_counts_how_many_times_nearer_a_result_is() -> None:
    assert contrast(0.898, 0.698) == pytest.approx(np.log(0.304 / 0.104))
    assert contrast(1.000001, 1.000001) == 0


@pytest.mark.parametrize(("best", "expected"), [(0.59, True), (0.6, False), (0.95, False)])
def test_what_scores_below_nearly_all_neighbours_is_like_nothing_there(best: float, expected: bool) -> None:
    assert fit_of().lacks_anything_like(best) is expected


def test_what_altered_copies_score_is_not_like_nothing_though_all_neighbours_are_nearer() -> None:
    near_alike = replace(fit_of(nearest_low=0.9), altered_low=0.7)
    assert [near_alike.lacks_anything_like(best) for best in (0.65, 0.7, 0.89)] == [True, False, False]
    assert replace(near_alike, altered_low=0.95).lacks_anything_like(0.91) is False


def test_a_small_index_and_one_of_copies_cannot_tell_that_nothing_is_similar() -> None:
    assert fit_of(99).lacks_anything_like(0.1) is None
    assert fit_of(nearest_low=None).lacks_anything_like(0.1) is None


@pytest.mark.parametrize(
    ("fitted_with", "images", "serves"),
    [
        (600, 600, True),
        (600, 1199, True),
        (600, 1200, False),
        (600, 301, True),
        (600, 300, False),
        (29, 30, False),
        (30, 29, False),
        (99, 100, False),
        (20, 25, True),
        (8, 5, False),
    ],
)
def test_a_fit_serves_until_the_index_has_doubled_or_halved_or_passed_a_step(
    fitted_with: int, images: int, serves: bool
) -> None:
    assert still_serves(fit_of(fitted_with), images=images) is serves


def test_no_fit_is_right_for_five_pictures_and_not_for_six() -> None:
    assert still_serves(None, images=0)
    assert still_serves(None, images=5)
    assert not still_serves(None, images=6)
