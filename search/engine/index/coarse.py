"""The fast first pass of a search: compact codes propose candidates, the float vectors decide.

Vectors are rotated at random and kept as 1 bit a number (RaBitQ, Gao and Long, SIGMOD 2024; FAISS's RaBitQFastScan):
120 bytes a picture instead of 3,840. The rotation spreads what a vector says over all its numbers; without it the
bits of a network's non-negative outputs tell little. The codes lie in inverted lists around k-means centres, and a
search scans the lists nearest to the query. How many lists, and how many candidates for each result, is what the
company's own pictures need: the cheapest plan that finds their true neighbours. Among the pictures of a folder all
lists are scanned; passing over those outside costs a quarter of scoring them.

Tried and left: codes of 640 or 480 principal components and product quantisers (a scan takes half the time, but needs
hundreds of candidates a result for the same recall), two threads (they share one core's units).
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from search.engine.index.exact import ROUNDING, best_scores
from search.engine.index.records import Rows
from search.engine.index.vector_file import StoredVectors
from search.engine.vectors import DIMENSION, Vector, Vectors

MIN_IMAGES = 10_000  # below, the exact scan takes a few milliseconds
MIN_RECALL = 0.999
NEIGHBOURS = 10  # that the recall is measured over

_SEED = 7
_TRAINING_ROWS = 20_000
_ROWS_A_BLOCK = 16_384
_QUERIES = 200
_CANDIDATES_A_RESULT = (5, 10, 20, 50, 100)
_SHARES_OF_LISTS = (1 / 8, 2 / 8, 3 / 8, 4 / 8, 6 / 8, 1)
_reading = threading.Lock()  # held while FAISS's limit, one for the process, is that of a file
_CODES_A_CANDIDATE = 100  # are scanned in the time that it takes to score one candidate exactly


@dataclass(frozen=True, slots=True)
class CoarseSearch:
    """What an index says of its first pass in index_info.json."""

    lists: int
    lists_probed: int
    candidates_per_result: int
    recall_at_10: float  # against the exact scan, over a sample of the company's own pictures


@dataclass(frozen=True, slots=True)
class CoarseIndex:
    """Proposes the rows of the vectors that may be closest. Never changes, so threads share it."""

    codes: Any  # faiss.IndexPreTransform of a rotation and an IndexIVFRaBitQFastScan
    search: CoarseSearch
    nbytes: int
    _rotation: npt.NDArray[np.float32] = field(repr=False)  # [960, 960], of codes: NumPy applies it faster than FAISS
    _rotated: Any = field(repr=False)  # the IndexIVFRaBitQFastScan of codes
    _measured: Any = field(repr=False)  # FAISS's parameters: the lists that the recall was measured with
    _everywhere: Any = field(repr=False)  # and all lists

    def propose(self, vector: Vector, top_k: int) -> npt.NDArray[np.int64]:
        """Return the rows, in order, among which the top_k closest to vector are.

        vector: float32 [960].
        """
        faiss.omp_set_num_threads(1)  # for this thread: requests are served side by side
        count = min(self.search.candidates_per_result * top_k, self.codes.ntotal)
        rotated = self._rotation @ vector
        rows = self._scan(rotated, count, self._measured if top_k <= NEIGHBOURS else self._everywhere)
        if len(rows) < count:
            rows = self._scan(rotated, count, self._everywhere)
        return np.sort(rows)

    def propose_among(self, rows: Rows, vector: Vector, count: int) -> tuple[npt.NDArray[np.int64], Vector]:
        """Return the count of these rows that look closest to vector, and their scores as the codes estimate them.

        vector: float32 [960]. All lists are scanned, since those nearest to vector may hold none of the rows.
        """
        faiss.omp_set_num_threads(1)
        everywhere = faiss.SearchParametersIVF(nprobe=self.search.lists, sel=_selector(rows))  # type: ignore[call-arg]
        rotated = self._rotation @ vector
        estimates, found = self._rotated.search(rotated[np.newaxis], count, params=everywhere)
        return found[found >= 0], estimates[found >= 0]

    def _scan(self, rotated: Vector, count: int, lists: Any) -> npt.NDArray[np.int64]:
        rows: npt.NDArray[np.int64] = self._rotated.search(rotated[np.newaxis], count, params=lists)[1][0]
        return rows[rows >= 0]


def build_coarse(vectors: StoredVectors, *, beat: Callable[[], None]) -> CoarseIndex | None:
    """Return the codes of vectors, or None where the exact scan serves better.

    That is where there are few vectors, and where the codes do not find at least MIN_RECALL of the true neighbours.
    beat is called now and then.
    """
    if len(vectors) < MIN_IMAGES:
        return None
    codes = _encode(vectors, beat)
    queries = vectors[_spread(len(vectors), _QUERIES)]
    least_scores = _neighbour_scores(queries, vectors, beat)[:, -1:]
    plans = _plans(codes, queries, vectors, least_scores, beat)
    _, lists_probed, candidates, recall = min(plans, default=(0, 0, 0, 0.0))
    if not candidates:
        return None
    return _coarse_index(codes, CoarseSearch(_lists(len(vectors)), lists_probed, candidates, round(recall, 4)), 0)


def write_coarse(coarse: CoarseIndex, path: Path) -> None:
    faiss.write_index(coarse.codes, str(path))


def read_coarse(path: Path, search: CoarseSearch, *, images: int) -> CoarseIndex:
    """Return the codes in path. Raises ValueError where they are not of so many images, and all that FAISS raises."""
    size = path.stat().st_size
    with _allocating_at_most(size):
        codes = faiss.read_index(str(path))
    lists = faiss.extract_index_ivf(codes)
    if (codes.ntotal, codes.d, lists.nlist) != (images, DIMENSION, search.lists):
        raise ValueError(f"it holds {codes.ntotal} codes in {lists.nlist} lists for {images} pictures")
    _require_rows(lists.invlists, search.lists, images)
    return _coarse_index(codes, search, size)


@contextmanager
def _allocating_at_most(size: int) -> Iterator[None]:
    """Let FAISS allocate no more for a part of what it reads in the block than the file has bytes."""
    with _reading:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def _require_rows(lists: Any, count: int, images: int) -> None:
    """Raise ValueError where the inverted lists lead to rows that are none."""
    for each in range(count):
        rows = faiss.rev_swig_ptr(lists.get_ids(each), lists.list_size(each))
        if len(rows) and not 0 <= rows.min() <= rows.max() < images:
            raise ValueError(f"it leads to vectors beyond the {images} that there are")


def _coarse_index(codes: Any, search: CoarseSearch, nbytes: int) -> CoarseIndex:
    matrix: Any = faiss.downcast_VectorTransform(codes.chain.at(0)).A  # type: ignore[attr-defined]
    rotation = faiss.rev_swig_ptr(matrix.data(), matrix.size()).reshape(DIMENSION, DIMENSION)  # no copy
    return CoarseIndex(
        codes,
        search,
        nbytes,
        rotation,
        faiss.downcast_index(codes.index),
        _probing(search.lists_probed),
        _probing(search.lists),
    )


def _probing(lists: int) -> Any:
    # FAISS's stubs do not know the keywords, by which alone Python keeps inner parameters alive.
    return faiss.SearchParametersIVF(nprobe=lists)  # type: ignore[call-arg]


def _selector(rows: Rows) -> Any:
    """Return what lets FAISS pass over all codes but those of rows, in order, before it computes their scores."""
    if isinstance(rows, slice):
        return faiss.IDSelectorRange(rows.start, rows.stop)
    wanted = np.zeros(rows[-1] + 1, bool)
    wanted[rows] = True
    return faiss.IDSelectorBitmap(np.packbits(wanted, bitorder="little"))  # type: ignore[arg-type, call-arg]


def _lists(images: int) -> int:
    """Return a power of two: 16 for 10,000 pictures, 64 for 100,000, 256 for 1,000,000."""
    return int(2 ** round(math.log2(math.sqrt(images) / 5)))


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most so many rows of count, evenly."""
    return np.linspace(0, count - 1, num=min(most, count), dtype=np.int64)


def _encode(vectors: StoredVectors, beat: Callable[[], None]) -> Any:
    rotation = faiss.RandomRotationMatrix(DIMENSION, DIMENSION)
    rotation.init(_SEED)
    codes = faiss.index_factory(DIMENSION, f"IVF{_lists(len(vectors))},RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    rotated = faiss.IndexPreTransform(rotation, codes)
    rotated.train(vectors[_spread(len(vectors), _TRAINING_ROWS)])
    for block in vectors.blocks(size=_ROWS_A_BLOCK):
        rotated.add(block)
        beat()
    return rotated


def _neighbour_scores(queries: Vectors, vectors: StoredVectors, beat: Callable[[], None]) -> Vectors:
    """Return the scores of the vectors closest to each query, by a scan of all, float32 [queries, 10], best first."""
    best = np.empty((len(queries), 0), np.float32)
    for block in vectors.blocks(size=_ROWS_A_BLOCK):
        best = best_scores(best, queries, block, NEIGHBOURS)
        beat()
    return np.sort(best, axis=1)[:, ::-1]


def _plans(
    codes: Any, queries: Vectors, vectors: StoredVectors, least_scores: Vectors, beat: Callable[[], None]
) -> Iterator[tuple[float, int, int, float]]:
    """Yield the plans that find enough: what a search costs, in codes scanned; lists; candidates a result; recall.

    least_scores: float32 [queries, 1], the score of the last true neighbour of each query. What scores as high is
    found: of several copies of a picture any will do.
    """
    lists, depth = _lists(len(vectors)), _CANDIDATES_A_RESULT[-1] * NEIGHBOURS
    for share in _SHARES_OF_LISTS:
        probed = max(1, round(lists * share))
        probing = faiss.SearchParametersPreTransform(index_params=_probing(probed))  # type: ignore[call-arg]
        _, proposed = codes.search(queries, min(depth, len(vectors)), params=probing)
        found = np.empty(proposed.shape, bool)
        for query, rows, least, hits in zip(queries, proposed, least_scores, found, strict=True):
            hits[:] = (vectors[np.maximum(rows, 0)] @ query >= least - ROUNDING) & (rows >= 0)
        beat()
        reached = np.minimum(np.cumsum(found, axis=1), NEIGHBOURS) / NEIGHBOURS  # [queries, depth], recall by depth
        for candidates in _CANDIDATES_A_RESULT:
            recall = float(reached[:, min(candidates * NEIGHBOURS, reached.shape[1]) - 1].mean())
            if recall >= MIN_RECALL:
                cost = probed / lists * len(vectors) + candidates * NEIGHBOURS * _CODES_A_CANDIDATE
                yield cost, probed, candidates, recall
                if candidates == _CANDIDATES_A_RESULT[0]:
                    return  # more lists can only cost more
                break
