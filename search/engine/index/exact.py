"""The exact scan: scores that no codes have a part in."""

import numpy as np
import numpy.typing as npt

from search.engine.index.records import Rows
from search.engine.index.vector_file import StoredVectors
from search.engine.vectors import Vector, Vectors

ROUNDING = 1e-5  # of a product of unit vectors in float32, many times over
SCORE_DIGITS = 6

_PART = 4096  # rows of which a copy is made at a time


def scan(vectors: StoredVectors, rows: Rows, vector: Vector) -> Vector:
    """Return the products of many vectors with vector, float32 [rows], each as near to the exact one as ROUNDING."""
    products = [block @ vector for block in vectors.blocks(rows)]
    return np.concatenate([np.empty(0, np.float32), *products])


def exact_scores(vectors: StoredVectors, rows: npt.NDArray[np.int64], vector: Vector) -> Vector:
    """Return the products of some vectors with vector, float32 [rows]."""
    parts = [rows[start : start + _PART] for start in range(0, len(rows), _PART)]
    products = [exact_products(vectors[part], vector) for part in parts]
    return np.concatenate([np.empty(0, np.float32), *products])


def exact_products(vectors: Vectors, vector: Vector) -> Vector:
    """Return the products of all vectors with vector, float32 [N].

    Not by BLAS, which rounds a row by where it stands in the matrix, so that copies of a picture would differ.
    """
    products: Vector = np.einsum("ij,j->i", vectors, vector)
    return products


def shown_scores(vectors: Vectors, vector: Vector) -> list[float]:
    """Return the products of a few vectors with vector as people see them: to SCORE_DIGITS, from -1 to 1.

    In double precision, so that the same vectors always score 1: what is left is what float32 has rounded in each
    component, half of what would show.
    """
    products = np.einsum("ij,j->i", vectors, vector, dtype=np.float64)
    scores: list[float] = np.clip(np.round(products, SCORE_DIGITS), -1, 1).tolist()
    return scores


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
