"""Every picture's nearest ones, without comparing each with each.

Pictures lie in cells around k-means centres, and each is compared with those in the few cells nearest to it. A few
pictures, or a few new ones, are compared with all. The vectors are read in blocks and never held all at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from search.engine.index.calibration import spread
from search.engine.index.compared import Compared, Places
from search.engine.vectors import DIMENSION, Vectors

NEAREST = 16  # that are found of each picture, at most

_CHUNK = 16_384  # pictures whose nearest ones are looked for together: 63 MB
_ROWS_A_BLOCK = 4096
_QUERIES_A_BLOCK = 1024
_FEW_PRODUCTS = 10**9  # of two vectors; take a minute
_PROBED = 4  # cells
_TRAINING_ROWS, _MOST_TRAINING_ROWS = 256, 20_000  # of each cell, and of all
_SEED = 7


@dataclass(frozen=True, slots=True)
class Nearest:
    """What is nearest to each of some pictures, closest first."""

    numbers: Places  # [N, NEAREST], negative where there is no more
    scores: npt.NDArray[np.float32]  # [N, NEAREST]


class SelfSearch:
    """Finds what is near to pictures among others. Never changes once it is made."""

    def __init__(self, pictures: Compared, among: Places, *, queries: int, beat: Callable[[], None]) -> None:
        """among: the pictures to find, in order. queries: how many will be asked about. beat: called now and then.

        Raises IndexCorrupt.
        """
        self._pictures, self._among, self._beat = pictures, among, beat
        self._centres: Vectors | None = None
        cells = 1
        if queries * len(among) > _FEW_PRODUCTS:
            cells = _cells(len(among))
            self._centres = self._train(cells)
        own = self._nearest_cells(among, 1)[:, 0]
        order = np.argsort(own, kind="stable")
        starts = np.searchsorted(own[order], np.arange(cells + 1))
        self._members = [among[order[starts[cell] : starts[cell + 1]]] for cell in range(cells)]

    def chunks(self, numbers: Places) -> Iterator[Places]:
        """Yield pictures in the order in which they are best asked about, so many at a time as memory allows."""
        order = np.argsort(self._nearest_cells(numbers, 1)[:, 0], kind="stable")
        for start in range(0, len(numbers), _CHUNK):
            yield numbers[order[start : start + _CHUNK]]

    def nearest(self, numbers: Places, *, above: float) -> Nearest:
        """Return what scores at least above with each of at most a chunk of pictures."""
        found = Nearest(
            np.full((len(numbers), NEAREST), -1, np.int64), np.full((len(numbers), NEAREST), -np.inf, np.float32)
        )
        for rows, members, products in self._products(numbers):
            best = products.max(axis=1)
            better = np.flatnonzero(best > np.maximum(found.scores[rows, -1], np.float32(above)))
            if len(better):
                _merge(found, rows[better], members, products[better])
        found.numbers[found.scores < above] = -1
        return found

    def all_above(self, numbers: Places, *, above: float) -> tuple[Places, Places, npt.NDArray[np.float32]]:
        """Return all pairs of some pictures with what scores at least above: places in numbers, numbers and scores."""
        places, others, scores = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for rows, members, products in self._products(numbers):
            hits, columns = np.nonzero(products >= above)
            places.append(rows[hits])
            others.append(members[columns])
            scores.append(products[hits, columns])
        return np.concatenate(places), np.concatenate(others), np.concatenate(scores)

    def _products(self, numbers: Places) -> Iterator[tuple[Places, Places, npt.NDArray[np.float32]]]:
        """Yield places in numbers, what they are compared with, and the scores: -inf of a picture with itself."""
        queries, cells = self._pictures.vectors(numbers), self._nearest_cells(numbers, _PROBED)
        for cell in np.unique(cells).tolist():
            asking = np.flatnonzero((cells == cell).any(axis=1))
            for start in range(0, len(self._members[cell]), _ROWS_A_BLOCK):
                members = self._members[cell][start : start + _ROWS_A_BLOCK]
                block = self._pictures.vectors(members).T
                for first in range(0, len(asking), _QUERIES_A_BLOCK):
                    rows = asking[first : first + _QUERIES_A_BLOCK]
                    products = queries[rows] @ block
                    itself = np.minimum(np.searchsorted(members, numbers[rows]), len(members) - 1)
                    products[members[itself] == numbers[rows], itself[members[itself] == numbers[rows]]] = -np.inf
                    yield rows, members, products
                    self._beat()

    def _train(self, cells: int) -> Vectors:
        faiss.omp_set_num_threads(1)  # more gain little time for much work, which others wait for
        rows = spread(len(self._among), min(_TRAINING_ROWS * cells, _MOST_TRAINING_ROWS))
        sample = self._pictures.vectors(self._among[rows])
        trained = faiss.Kmeans(DIMENSION, cells, niter=10, seed=_SEED, spherical=True)
        trained.train(sample)
        assert trained.centroids is not None
        return trained.centroids

    def _nearest_cells(self, numbers: Places, count: int) -> Places:
        """Return the cells nearest to each picture, nearest first, [numbers, at most count]."""
        if self._centres is None:
            return np.zeros((len(numbers), 1), np.int64)
        count = min(count, len(self._centres))
        cells = np.empty((len(numbers), count), np.int64)
        for start in range(0, len(numbers), _ROWS_A_BLOCK):
            part = slice(start, start + _ROWS_A_BLOCK)
            scores = self._pictures.vectors(numbers[part]) @ self._centres.T
            cells[part] = np.argsort(-scores, axis=1)[:, :count]
            self._beat()
        return cells


def _cells(count: int) -> int:
    """Return a power of two: 64 for 100,000 pictures, 256 for a million."""
    return int(2 ** round(np.log2(max(1.0, np.sqrt(count) / 4))))


def _merge(found: Nearest, rows: Places, members: Places, products: npt.NDArray[np.float32]) -> None:
    """Take what is nearer than what was found so far into found, at rows."""
    count = min(NEAREST, products.shape[1])
    nearest = np.argpartition(-products, count - 1, axis=1)[:, :count]
    scores = np.hstack([found.scores[rows], np.take_along_axis(products, nearest, axis=1)])
    numbers = np.hstack([found.numbers[rows], members[nearest]])
    order = np.lexsort((numbers, -scores), axis=1)[:, :NEAREST]
    found.scores[rows] = np.take_along_axis(scores, order, axis=1)
    found.numbers[rows] = np.take_along_axis(numbers, order, axis=1)
