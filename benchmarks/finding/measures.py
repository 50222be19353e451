"""How good an answer is, as a number."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BINS = 10


def auc(values: Sequence[float], is_true: Sequence[bool]) -> float:
    """Return how often a true one has the higher value than a false one; equal ones count half."""
    order = np.asarray(values, np.float64)
    true, false = order[np.asarray(is_true)], order[~np.asarray(is_true)]
    higher = (true[:, np.newaxis] > false).mean()
    return float(higher + (true[:, np.newaxis] == false).mean() / 2)


def reliability(percents: Sequence[float], weights: Sequence[float], is_true: Sequence[bool]) -> list[dict[str, float]]:
    """Return for each tenth of what is shown how often it was true: share, mean percent, percent true."""
    shown, weight, true = np.asarray(percents), np.asarray(weights), np.asarray(is_true)
    tenth = np.minimum(shown * BINS // 100, BINS - 1)
    return [
        {
            "share": float(weight[of].sum() / weight.sum()),
            "shown": float(np.average(shown[of], weights=weight[of])),
            "true": float(100 * np.average(true[of], weights=weight[of])),
            "results": int(of.sum()),
        }
        for of in (tenth == number for number in range(BINS))
        if of.any()
    ]


def calibration_error(tenths: Sequence[dict[str, float]]) -> float:
    """Return the mean distance, 0..1, between what is shown and what is true."""
    return sum(tenth["share"] * abs(tenth["shown"] - tenth["true"]) for tenth in tenths) / 100


def share(found: Sequence[bool] | npt.NDArray[np.bool_]) -> float:
    return float(np.mean(found)) if len(found) else float("nan")
