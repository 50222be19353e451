"""Whether match means what it says, and whether "nothing similar" is said where nothing is."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.finding.catalogue import Catalogue, at_once, opened
from benchmarks.finding.copies import Asked, search_for
from benchmarks.finding.edits import altered, encoded
from benchmarks.finding.measures import auc, calibration_error, reliability, share

_HALF = 50.0  # percent


def figures(catalogue: Catalogue, others: list[Catalogue], *, count: int) -> dict[str, Any]:
    """Return what match and "nothing similar" are worth, from some 3 * count searches."""
    asked = ask_altered(catalogue, count=count)
    strangers = ask_strangers(catalogue, others, count=count // 3)
    return {"match": match_figures(asked), "nothing_similar": nothing_similar_figures(asked, strangers)}


def ask_altered(catalogue: Catalogue, *, count: int) -> list[Asked]:
    """Search about count times with altered pictures that the catalogue has, and as often with such that it lacks."""
    jobs = []
    for pictures in (catalogue.present, catalogue.absent):
        times = -(-count // len(pictures))
        jobs += [(picture, time) for picture in catalogue.some(pictures, count) for time in range(times)]
    return at_once(lambda job: _ask_altered(catalogue, *job), jobs)


def _ask_altered(catalogue: Catalogue, picture: Path, time: int) -> Asked:
    edited = altered(opened(picture), catalogue.random("altered", picture.name, time))
    return search_for(catalogue, picture, edited, kind="altered")


def ask_strangers(catalogue: Catalogue, others: list[Catalogue], *, count: int) -> dict[str, list[Asked]]:
    """Search with pictures of the other catalogues, as they are."""
    return {
        other.name: at_once(
            lambda picture: search_for(catalogue, picture, encoded(opened(picture)), kind="stranger"),
            catalogue.some(other.absent, count),
        )
        for other in others
    }


def match_figures(asked: list[Asked]) -> dict[str, Any] | None:
    """Return how well match and the score tell whether the first result is the original, and how true match is.

    Half of the weight is with searches whose original is in the catalogue. None where there is no match.
    """
    told = [one for one in asked if one.percent is not None]
    if not told:
        return None
    present = np.array([one.is_present for one in told])
    weights = np.where(present, 0.5 / present.sum(), 0.5 / (~present).sum())
    percents, found = [one.percent for one in told], [one.found for one in told]
    tenths = reliability(percents, weights, found)
    others = np.array([percent for one in told for percent in one.others])
    return {
        "auc_match": auc(percents, found),
        "auc_score": auc([one.score for one in told], found),
        "calibration_error": calibration_error(tenths),
        "reliability": tenths,
        "other_results_shown_above_50": share(others > _HALF),
        "searches": len(told),
    }


def nothing_similar_figures(asked: list[Asked], strangers: dict[str, list[Asked]]) -> dict[str, Any]:
    """Return how often "nothing similar" is said of the company's own pictures and kind, and of strangers."""
    present = [one.nothing_similar for one in asked if one.is_present]
    absent = [one.nothing_similar for one in asked if not one.is_present]
    return {
        "is_told": None not in present,
        "altered_present": share([bool(told) for told in present]),
        "altered_absent": share([bool(told) for told in absent]),
        "strangers": {name: share([bool(one.nothing_similar) for one in of]) for name, of in strangers.items()},
    }
