from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from search.engine.embedder import DIMENSION, MODEL, ModelPassport, Vector, Vectors
from search.engine.errors import DimensionMismatch, ModelMismatch


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A picture of an index. path is relative to the company's image folder, with forward slashes."""

    path: str
    id: str  # UUID

    @property
    def location(self) -> str:
        """The folder the picture lies in, "" at the top."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The file's name without its extension."""
        stem, dot, _ = self.path.rpartition("/")[2].rpartition(".")
        return stem if dot and stem else self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Match:
    image: ImageRecord
    score: float  # cosine similarity, -1..1, higher is closer


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index says of itself in index_info.json; the Flask service wrote the first four alone."""

    total_images: int
    embedding_dimension: int = DIMENSION
    model: str = MODEL
    timestamp: str | None = None  # UTC, "2025-10-27T12:00:00.000Z"
    weights: str | None = None
    fingerprint: str | None = None

    @property
    def passport(self) -> ModelPassport | None:
        """The model that made the index; None where it was never recorded."""
        return ModelPassport(self.weights or "unnamed weights", self.fingerprint) if self.fingerprint else None


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """The pictures of one company and their vectors. It never changes: a rebuild replaces it."""

    info: IndexInfo
    records: Sequence[ImageRecord]  # in the order of the vectors
    vectors: Vectors = field(repr=False)  # [N, 960], memory-mapped and read-only where the files allow it

    def __len__(self) -> int:
        return len(self.records)

    def require_model(self, passport: ModelPassport) -> None:
        """Raise ModelMismatch unless vectors of this model may be compared with the index's."""
        made_by = self.info.passport
        if made_by is not None and made_by.fingerprint != passport.fingerprint:
            raise ModelMismatch(
                f"The index was made by {made_by}, the query by {passport}: rebuild the index with build_embeddings, "
                "or set IMAGESEARCH_WEIGHTS to the index's weights"
            )

    def search(self, vector: Vector, top_k: int) -> list[Match]:
        """Return the top_k images closest to vector, closest first; equal scores in index order.

        vector: float32 [960], unit length. Fewer than top_k matches come
        back when the index is smaller. Safe to call from many threads.
        Raises DimensionMismatch if vector is not [960].
        """
        if vector.shape != (self.info.embedding_dimension,):
            raise DimensionMismatch(
                f"The vector's shape is {vector.shape}, the index's dimension {self.info.embedding_dimension}"
            )
        scores = self.vectors @ vector  # [N]
        rows = _best(scores, top_k)
        return [Match(self.records[row], float(scores[row])) for row in rows]


def _best(scores: Vector, top_k: int) -> list[int]:
    """Return the rows of the top_k highest scores, highest first."""
    if top_k < len(scores):
        threshold = np.partition(scores, -top_k)[-top_k]
        rows = np.flatnonzero(scores >= threshold)
    else:
        rows = np.arange(len(scores))
    order = np.lexsort((rows, -scores[rows]))
    return [int(row) for row in rows[order[:top_k]]]
