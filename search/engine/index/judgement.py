"""Judges what a search has found: how likely a result is the picture searched with, and whether anything is alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from search.engine.index.exact import ROUNDING
from search.engine.index.index import ImageIndex
from search.engine.index.match import Match
from search.engine.index.match_fit import MIN_IMAGES, MIN_TELLING, MatchFit, background_of
from search.engine.index.thresholds import Thresholds

FIRST_LOOK, LAST_LOOK = 10, 50  # results that are looked at for the background; the second where the first are copies


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the results of one query are judged by."""

    fit: MatchFit
    background: float
    nothing_similar: bool | None  # None where it cannot be told

    def on(self, match: Match) -> Match:
        """Return the match with its percentage."""
        return replace(match, percent=self.fit.percent(match.score, self.background))


def judge(index: ImageIndex, search: Callable[[int], list[Match]]) -> Judgement | None:
    """Return the judgement of a query; None where the index has no fit, or too few pictures.

    search: returns as many of the query's results as it is asked for, or more but at most LAST_LOOK, from all of the
    index as it is now.
    """
    fit = index.info.match
    if fit is None or len(index) < MIN_IMAGES:
        return None
    found = search(FIRST_LOOK)
    background = _background(index, found)
    if background is None and len(found) < min(LAST_LOOK, len(index)):
        background = _background(index, search(LAST_LOOK))
    background = fit.background if background is None else background
    if background is None:
        return None
    telling = len(index) >= MIN_TELLING
    return Judgement(fit, background, fit.lacks_anything_like(found[0].score) if telling else None)


def _background(index: ImageIndex, found: list[Match]) -> float | None:
    same = (index.info.thresholds or Thresholds()).same
    first = cache(lambda: index.find_vector(found[0].image.id))

    def is_same(place: int) -> bool:
        # Two that lie so far from each other as seen from the query are not the same: most vectors need not be read.
        if math.acos(found[place].score) - math.acos(found[0].score) > math.acos(same) + ROUNDING:
            return False
        vectors = first(), index.find_vector(found[place].image.id)
        return vectors[0] is not None and vectors[1] is not None and float(vectors[0] @ vectors[1]) >= same

    return background_of([match.score for match in found], is_same)
