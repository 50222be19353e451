"""How likely a result shows the same picture as the query: what the score alone cannot say.

A score of 0.9 is a copy where nothing else comes near and a look-alike where many score as high. So a result is
compared with the background, the fifth of the different pictures found, as Lowe's ratio test compares the first with
the second ("Distinctive image features from scale-invariant keypoints", 2004), and the ratio becomes a probability by
logistic regression, as Platt made one of the margins of a support vector machine ("Probabilistic outputs for support
vector machines", 1999). What it is fitted on is made in search.engine.build.match.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

MIN_IMAGES = 6  # that an index must have: the original and five others
MIN_ALTERED = 30  # pictures that a fit must have copies of
MIN_TELLING = 100  # pictures of an index that can tell that it has nothing similar

Line = tuple[float, float]  # slope and offset

USUAL: Line = (6.5, -3.1)  # of weights trained on ImageNet
_MEASURED: dict[str, Line] = {  # by fingerprint of the weights
    # The built-in ones, on photographs of clothing and two catalogues of drawings: 4.6, -4.0; 2.3, -2.9; 3.0, -3.1.
    "eab324cb0d147433e44814dab7519b79b3606fa21b9a8f766291fead2cb096c7": (3.3, -3.3),
}

_BACKGROUND_PLACE = 5
_ROOM = 0.002  # for what two encodings of a picture differ by
_LEAST_SLOPE = 0.1  # at less, all results of a query would match alike
_STEPS = 50
_PARTS = 5  # of the pictures, of which each is left out in turn
_BINS = 10

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MatchFit:
    """What an index says in index_info.json of how its scores become percentages."""

    slope: float
    offset: float
    images: int  # that the index had when this was fitted
    pictures: int  # whose altered copies it was fitted on; 0: slope and offset are the usual ones
    calibration_error: float | None  # mean difference from the share that was right, of pictures left out of the fit
    background: float | None  # median score of a picture's fifth neighbour; None: hardly any two pictures differ
    nearest_low: float | None  # the quantile 0.01 of the scores of nearest neighbours, copies left out
    nearest_median: float | None
    altered_low: float | None = None  # the quantile 0.03 of the best scores of altered copies; None: none were made

    def percent(self, score: float, background: float) -> float:
        """Return how likely a result of this score shows the same picture as the query, 0 to 100, to one digit.

        That is where half of all queries are of pictures that the company has. background: see background_of.
        """
        return round(100 * _probability(self.slope * contrast(score, background) + self.offset), 1)

    def lacks_anything_like(self, best: float) -> bool | None:
        """Return whether a query whose best score is this looks like nothing there; None where that cannot be told."""
        if self.images < MIN_TELLING or self.nearest_low is None:
            return None
        # Where all pictures are alike, each has a nearer neighbour than an altered copy of it ever is.
        lowest = self.nearest_low if self.altered_low is None else min(self.nearest_low, self.altered_low)
        return best < lowest


def usual_line(fingerprint: str) -> Line:
    """Return the line of an index that is too small for one of its own. fingerprint: of the weights."""
    return _MEASURED.get(fingerprint, USUAL)


def still_serves(fit: MatchFit | None, *, images: int) -> bool:
    """Return whether a fit, or that there is none, is right for an index that has so many pictures now."""
    if fit is None or images < MIN_IMAGES:
        return fit is None and images < MIN_IMAGES
    steps = MIN_ALTERED, MIN_TELLING
    return fit.images / 2 < images < fit.images * 2 and all((fit.images < step) == (images < step) for step in steps)


def background_of(scores: Sequence[float], is_same: Callable[[int], bool]) -> float | None:
    """Return the score of the fifth result, those not counted that show the same picture as the first; None: too few.

    scores: of results, best first. is_same: whether the result at this place is the same picture as the first one, by
    the cosine of both as they are stored; asked for no more places than necessary.
    """
    different = (score for place, score in enumerate(scores) if not place or not is_same(place))
    return next(islice(different, _BACKGROUND_PLACE - 1, None), None)


def contrast(score: float, background: float) -> float:
    """Return the logarithm of how much nearer the query is to a result than to the background."""
    return math.log((1 - min(1, background) + _ROOM) / (1 - min(1, score) + _ROOM))


def fit_line(contrasts: Floats, is_match: npt.NDArray[np.bool_], *, usual: Line = USUAL) -> Line:
    """Return slope and offset of the logistic regression, by Newton's method; the usual ones where it says nothing.

    contrasts: [N], as contrast() gives them. is_match: [N], whether it was the same picture.
    """
    matches = int(np.count_nonzero(is_match))
    if matches in (0, len(is_match)):
        return usual
    # Platt's targets, just short of 0 and 1: with these the best line is finite, however well the two are separated.
    targets = np.where(is_match, (matches + 1) / (matches + 2), 1 / (len(is_match) - matches + 2))
    design = np.stack([contrasts, np.ones_like(contrasts)], axis=1)  # [N, 2]
    line = np.zeros(2)
    for _ in range(_STEPS):
        odds = design @ line
        likely = 1 / (1 + np.exp(-odds))
        curvature = (design * (likely * (1 - likely))[:, np.newaxis]).T @ design
        step = np.linalg.lstsq(curvature, design.T @ (targets - likely), rcond=None)[0]
        while _loss(design @ (line + step), targets) > _loss(odds, targets) and np.abs(step).max() > 1e-9:
            step /= 2
        line = line + step
        if np.abs(step).max() < 1e-9:
            break
    slope, offset = line.tolist()
    return (slope, offset) if slope >= _LEAST_SLOPE and math.isfinite(slope + offset) else usual


def held_out_error(contrasts: Floats, is_match: npt.NDArray[np.bool_], pictures: npt.NDArray[np.int64]) -> float:
    """Return the calibration error of lines fitted on the other pictures.

    pictures: [N], the number of the picture that each is a copy of.
    """
    likely = np.empty(len(contrasts))
    for part in range(_PARTS):
        out = pictures % _PARTS == part
        slope, offset = fit_line(contrasts[~out], is_match[~out])
        likely[out] = [_probability(slope * each + offset) for each in contrasts[out]]
    return calibration_error(likely, is_match)


def calibration_error(likely: Floats, is_match: npt.NDArray[np.bool_]) -> float:
    """Return by how much probabilities differ from the share of matches, on average, in bins of a tenth.

    likely: [N], 0 to 1.
    """
    bins = np.minimum((likely * _BINS).astype(np.int64), _BINS - 1)
    differences = np.bincount(bins, weights=likely - is_match, minlength=_BINS)
    return float(np.abs(differences).sum() / len(likely))


def _loss(odds: Floats, targets: Floats) -> float:
    return float(np.sum(np.logaddexp(0, odds) - targets * odds))


def _probability(odds: float) -> float:
    small = math.exp(-abs(odds))
    return 1 / (1 + small) if odds > 0 else small / (1 + small)
