"""The fast first pass of a search: compact codes propose candidates, the float vectors decide.

Vectors are rotated at random and kept as 1 bit a number (RaBitQ, Gao and Long, SIGMOD 2024; FAISS's RaBitQFastScan):
120 bytes a picture instead of 3,840. The rotation spreads what a vector says over all its numbers; without it the
bits of a network's non-negative outputs tell little. (Codes of 640 or 480 principal components were tried: a fifth
faster to scan, but the ten nearest were among a hundred candidates 96 times in 100 instead of always.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from search.engine.embedder import DIMENSION, Vector, Vectors

MIN_IMAGES = 10_000  # below, the exact scan takes a few milliseconds
MIN_RECALL = 0.999

_SEED = 7
_TRAINING_ROWS = 20_000
_ROWS_A_BLOCK = 16_384
_QUERIES = 100
_NEIGHBOURS = 10
_CANDIDATES_A_RESULT = (10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class CoarseSearch:
    """What an index says of its first pass in index_info.json."""

    candidates_per_result: int
    recall_at_10: float  # against the exact scan, over a sample of the company's own pictures


@dataclass(frozen=True, slots=True)
class CoarseIndex:
    """Proposes the rows of the vectors that may be closest. Never changes, so threads share it."""

    codes: Any  # faiss.IndexPreTransform
    search: CoarseSearch
    nbytes: int

    def propose(self, vector: Vector, top_k: int) -> npt.NDArray[np.int64]:
        """Return the rows, in order, among which the top_k closest to vector are.

        vector: float32 [960].
        """
        faiss.omp_set_num_threads(1)  # for this thread: requests are served side by side
        count = min(self.search.candidates_per_result * top_k, self.codes.ntotal)
        _, rows = self.codes.search(vector[np.newaxis], count)
        return np.sort(rows[0][rows[0] >= 0])


def build_coarse(vectors: Vectors, *, beat: Callable[[], None]) -> CoarseIndex | None:
    """Return the codes of vectors, or None where the exact scan serves better.

    That is where there are few vectors, and where the codes do not find at least MIN_RECALL of the true neighbours.
    vectors: float32 [N, 960], may be memory-mapped. beat is called now and then.
    """
    if len(vectors) < MIN_IMAGES:
        return None
    codes = _encode(vectors, beat)
    queries = vectors[np.linspace(0, len(vectors) - 1, num=_QUERIES, dtype=int)]
    truth = _exact_neighbours(queries, vectors, beat)
    for candidates in _CANDIDATES_A_RESULT:
        found = _neighbours(codes, queries, vectors, candidates * _NEIGHBOURS)
        beat()
        if (recall := _recall(found, truth)) >= MIN_RECALL:
            return CoarseIndex(codes, CoarseSearch(candidates, round(recall, 4)), nbytes=0)
    return None


def write_coarse(coarse: CoarseIndex, path: Path) -> None:
    faiss.write_index(coarse.codes, str(path))


def read_coarse(path: Path, search: CoarseSearch, *, images: int) -> CoarseIndex:
    """Return the codes in path. Raises ValueError where they are not those of so many images."""
    try:
        codes = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if codes.ntotal != images or codes.d != DIMENSION:
        raise ValueError(f"it holds {codes.ntotal} codes for {images} pictures")
    return CoarseIndex(codes, search, nbytes=path.stat().st_size)


def _encode(vectors: Vectors, beat: Callable[[], None]) -> Any:
    rotation = faiss.RandomRotationMatrix(DIMENSION, DIMENSION)
    rotation.init(_SEED)
    codes = faiss.index_factory(DIMENSION, "RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    rotated = faiss.IndexPreTransform(rotation, codes)
    rotated.train(vectors[np.linspace(0, len(vectors) - 1, num=min(_TRAINING_ROWS, len(vectors)), dtype=int)])
    for start in range(0, len(vectors), _ROWS_A_BLOCK):
        rotated.add(np.ascontiguousarray(vectors[start : start + _ROWS_A_BLOCK]))
        beat()
    return rotated


def _exact_neighbours(queries: Vectors, vectors: Vectors, beat: Callable[[], None]) -> npt.NDArray[np.int64]:
    """Return the rows closest to each query by a scan of all, int64 [queries, 10]."""
    best_scores = np.full((len(queries), _NEIGHBOURS), -np.inf, np.float32)
    best_rows = np.zeros((len(queries), _NEIGHBOURS), np.int64)
    for start in range(0, len(vectors), _ROWS_A_BLOCK):
        scores = queries @ vectors[start : start + _ROWS_A_BLOCK].T  # [queries, block]
        rows = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        scores, rows = np.hstack([best_scores, scores]), np.hstack([best_rows, rows])
        best = np.argpartition(-scores, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        best_scores, best_rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        beat()
    return best_rows


def _recall(found: list[npt.NDArray[np.int64]], truth: npt.NDArray[np.int64]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / _NEIGHBOURS for a, b in zip(found, truth, strict=True)]))


def _neighbours(codes: Any, queries: Vectors, vectors: Vectors, candidates: int) -> list[npt.NDArray[np.int64]]:
    """Return the rows that the codes propose and the vectors confirm as the closest to each query."""
    _, proposed = codes.search(queries, min(candidates, len(vectors)))
    neighbours = []
    for query, rows in zip(queries, proposed, strict=True):
        rows = np.sort(rows[rows >= 0])
        neighbours.append(rows[np.argsort(-(vectors[rows] @ query))[:_NEIGHBOURS]])
    return neighbours
