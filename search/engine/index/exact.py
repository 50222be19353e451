"""The exact scan: scores that no codes have a part in."""

import numpy as np
import numpy.typing as npt

from search.engine.index.vector_file import VectorFile
from search.engine.vectors import Vector, Vectors

ROUNDING = 1e-5  # of a product of unit vectors in float32, many times over

_BLOCK = 4096


def exact_scores(vectors: Vectors | VectorFile, rows: npt.NDArray[np.int64], vector: Vector) -> Vector:
    """Return the products of some vectors with vector, float32 [rows].

    Not by BLAS, which rounds a row by where it stands in the matrix, so that copies of a picture would differ.
    """
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    products = [np.einsum("ij,j->i", vectors[block], vector) for block in blocks]
    return np.concatenate([np.empty(0, np.float32), *products])


def contenders(scores: Vector, top_k: int) -> npt.NDArray[np.int64]:
    """Return the places of the top_k highest scores and of all that rounding may have put below them."""
    if top_k <= 0:
        return np.empty(0, np.int64)
    threshold = np.partition(scores, -top_k)[-top_k]
    return np.flatnonzero(scores >= threshold - ROUNDING)


def best_scores(best: Vectors, queries: Vectors, block: Vectors, count: int) -> Vectors:
    """Return the highest scores of each query once a block of vectors is scanned, float32 [queries, at most count].

    best: those before the block, float32 [queries, any]. They are in no order.
    """
    scores = np.hstack([best, queries @ block.T])  # [queries, best + block]
    count = min(count, scores.shape[1])
    return np.partition(scores, -count, axis=1)[:, -count:]
