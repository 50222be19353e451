"""Pictures whose perceptual hashes differ in a few bits.

By FAISS's binary search, which compares each hash with all: a table of bands of bits that agree took far longer for the
ten bits' difference that is wanted here.
"""

from collections.abc import Callable

import faiss
import numpy as np
import numpy.typing as npt

from search.engine.index.compared import Keys, Places

SAME_BITS, NEAR_BITS = 4, 10  # of 64

_NEAREST = 16  # other hashes, and other pictures of the same hash
_SCANNED_AT_ONCE = 8
_QUERIES_AT_ONCE = 512


class NearHashes:
    """Finds pictures among others by their hashes. Never changes once it is made."""

    def __init__(self, hashes: Keys, among: Places, *, beat: Callable[[], None]) -> None:
        """hashes: of all pictures, by number. among: those to find, in order. beat: called now and then."""
        faiss.omp_set_num_threads(1)
        self._hashes, self._among, self._beat = hashes, among, beat
        self._order = among[np.argsort(hashes[among], kind="stable")]  # pictures by hash
        self._unique, starts = np.unique(hashes[self._order], return_index=True)
        self._starts = np.append(starts, len(self._order))
        self._flat = faiss.IndexBinaryFlat(64)
        self._flat.add(_bytes(self._unique))

    def near(self, numbers: Places) -> tuple[Places, Places, npt.NDArray[np.bool_]]:
        """Return pairs of these pictures with others at most NEAR_BITS away, and of which of these there may be more.

        Places in numbers, numbers of the others, both [pairs]; and whether more than those may be SAME_BITS away,
        [numbers].
        """
        bits, found = self._nearest_hashes(numbers)
        sizes = np.diff(self._starts)[found]
        taken = np.where(bits <= NEAR_BITS, np.minimum(sizes, _NEAREST + 1), 0)
        taken = np.where(np.cumsum(taken, axis=1) - taken <= _NEAREST, taken, 0)
        rows = np.repeat(np.arange(len(numbers)), taken.sum(axis=1))
        first = np.repeat(self._starts[found].ravel(), taken.ravel())
        within = np.arange(len(first)) - np.repeat(np.cumsum(taken.ravel()) - taken.ravel(), taken.ravel())
        others = self._order[first + within]
        is_other = others != numbers[rows]
        is_crowded = ((bits <= SAME_BITS) * sizes).sum(axis=1) > _NEAREST
        return rows[is_other], others[is_other], is_crowded | (bits[:, -1] <= SAME_BITS)

    def bits(self, ones: Places, others: Places) -> npt.NDArray[np.uint8]:
        """Return in how many bits the hashes of pairs differ, [pairs]."""
        return np.asarray(np.bitwise_count(self._hashes[ones] ^ self._hashes[others]))

    def _nearest_hashes(self, numbers: Places) -> tuple[npt.NDArray[np.int32], Places]:
        """Return how far the nearest hashes are from those of pictures, and their places, [numbers, at most 16]."""
        count = min(_NEAREST, len(self._unique))
        bits, found = np.empty((len(numbers), count), np.int32), np.empty((len(numbers), count), np.int64)
        for start in range(0, len(numbers), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            bits[part], found[part] = self._flat.search(_bytes(self._hashes[numbers[part]]), count)
            self._beat()
        return bits, found

    def all_same(self, numbers: Places) -> tuple[Places, Places]:
        """Return all pairs of these pictures with others at most SAME_BITS away, as near does."""
        rows, others = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(numbers), _SCANNED_AT_ONCE):
            part = numbers[start : start + _SCANNED_AT_ONCE]
            bits = np.bitwise_count(self._hashes[part][:, np.newaxis] ^ self._hashes[self._among])  # [part, among]
            hits, columns = np.nonzero(bits <= SAME_BITS)
            rows.append(hits + start)
            others.append(self._among[columns])
        row, other = np.concatenate(rows), np.concatenate(others)
        is_other = other != numbers[row]
        return row[is_other], other[is_other]


def _bytes(hashes: Keys) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8)
