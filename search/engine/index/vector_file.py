import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search.engine.errors import IndexCorrupt
from search.engine.vectors import DIMENSION, Vectors

_ROW_BYTES = 4 * DIMENSION


class VectorFile:
    """Single vectors of embeddings.npy, read instead of mapped.

    A mapping would bring in the neighbours of each vector too, until the whole file counted as the process's memory.
    Threads share it.
    """

    def __init__(self, path: Path, count: int) -> None:
        """count: how many vectors stand at the end of the file, behind NumPy's header. Raises OSError."""
        self._path, self._count = path, count
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._start = os.fstat(self._descriptor).st_size - count * _ROW_BYTES

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """Return the vectors of these rows, float32 [rows, 960]. Raises IndexCorrupt where the file was cut short."""
        vectors = np.empty((len(rows), DIMENSION), np.float32)
        for vector, row in zip(vectors, rows.tolist(), strict=True):
            self._read(vector, row)
        return vectors

    def blocks(self, rows_a_block: int) -> Iterator[Vectors]:
        """Yield all vectors in order, float32 [at most rows_a_block, 960]. Raises IndexCorrupt as above."""
        for start in range(0, self._count, rows_a_block):
            vectors = np.empty((min(rows_a_block, self._count - start), DIMENSION), np.float32)
            self._read(vectors, start)
            yield vectors

    def _read(self, vectors: Vectors, row: int) -> None:
        """Fill vectors, from this row on."""
        if os.preadv(self._descriptor, [vectors.data], self._start + row * _ROW_BYTES) != vectors.nbytes:
            raise IndexCorrupt(f"{self._path.name} ends before vector {row + vectors.nbytes // _ROW_BYTES - 1}")
