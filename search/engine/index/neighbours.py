"""How often a picture's nearest neighbour lies in its own folder: a measure of a model without labels.

It says how well searches find where folders are categories, such as shoes and hats, and nothing where they are dates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from search.engine.index.exact import ROUNDING
from search.engine.index.vector_file import StoredVectors
from search.engine.vectors import Vectors

MAX_FOLDERS = 100  # that are kept, those with the most pictures tried

_TRIED = 1000
_TRIED_OF_MANY = 200
_PRODUCTS = 5 * 10**7  # two seconds of one core; a larger index is tried with fewer pictures
_ROWS_A_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How many pictures were tried, and how many of them have their nearest neighbour in their own folder."""

    tried: int
    own: int
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)  # the same by folder, at most MAX_FOLDERS

    @property
    def percent(self) -> float:
        return 100 * self.own / self.tried


def measure_neighbours(
    vectors: StoredVectors,
    *,
    folders: npt.NDArray[np.int64],
    names: Sequence[str],
    ids: npt.NDArray[np.uint64],
    beat: Callable[[], None] = lambda: None,
) -> Neighbours | None:
    """Return how often a picture's nearest neighbour lies in its own folder; None where there is nothing to compare.

    folders: the place in names of each picture's folder, [N]. ids: 64 random bits for each picture, [N]: those with
    the lowest are tried, so that the next build tries the same ones. Only pictures that are not alone in their folder
    are. A neighbour elsewhere that is as near as one in the own folder does not count. beat: called now and then.
    """
    not_alone = np.flatnonzero(np.bincount(folders)[folders] > 1)
    if len(names) < 2 or not len(not_alone):
        return None
    count = min(_TRIED, max(_TRIED_OF_MANY, _PRODUCTS // len(folders)))
    rows = np.sort(not_alone[np.argsort(ids[not_alone], kind="stable")[:count]])
    own = _is_nearest_in_own_folder(vectors, rows, folders, beat)
    return Neighbours(len(rows), int(own.sum()), _by_folder(folders[rows], own, names))


def _is_nearest_in_own_folder(
    vectors: StoredVectors, rows: npt.NDArray[np.int64], folders: npt.NDArray[np.int64], beat: Callable[[], None]
) -> npt.NDArray[np.bool_]:
    """Return for each row whether none of another folder is nearer, [rows]."""
    queries: Vectors = vectors[rows]
    best = np.full((2, len(rows)), -np.inf, np.float32)  # elsewhere and in the own folder
    start = 0
    for block in vectors.blocks(size=_ROWS_A_BLOCK):
        stop = start + len(block)
        scores = queries @ block.T  # [rows, block]
        here = np.flatnonzero((rows >= start) & (rows < stop))
        scores[here, rows[here] - start] = -np.inf  # itself
        near = np.flatnonzero(scores.max(axis=1) >= best.max(axis=0) - ROUNDING)
        is_own = folders[start:stop] == folders[rows[near], np.newaxis]  # [near, block]
        for place, counts in enumerate((~is_own, is_own)):
            found = np.where(counts, scores[near], -np.inf).max(axis=1)
            best[place, near] = np.maximum(best[place, near], found)
        start = stop
        beat()
    return best[1] >= best[0] - ROUNDING


def _by_folder(
    folders: npt.NDArray[np.int64], own: npt.NDArray[np.bool_], names: Sequence[str]
) -> dict[str, tuple[int, int]]:
    tried = np.bincount(folders, minlength=len(names))
    hits = np.bincount(folders[own], minlength=len(names))
    most = np.argsort(-tried, kind="stable")[:MAX_FOLDERS]
    return {names[place]: (int(tried[place]), int(hits[place])) for place in most if tried[place]}
