"""The vectors of an index by row: in a file, and in memory where they are few."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from search.engine.index.open_file import OpenFile
from search.engine.index.records import Rows
from search.engine.vectors import DIMENSION, Vector, Vectors

# Of a scan: 1 MB, which stays in the processor's cache between being read and being used. From 480 rows on OpenBLAS
# computes a product in several threads, and these cost more than they gain.
ROWS_A_BLOCK = 256

_ROW_BYTES = 4 * DIMENSION

_Selected = range | npt.NDArray[np.int64]


class StoredVectors(Protocol):
    """The vectors of an index, in its order. They never change, and threads share them."""

    @property
    def nbytes(self) -> int:
        """How much memory they take at most."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows) -> Vectors:
        """Return some vectors, those of these rows, float32 [rows, 960], to be read only. Raises IndexCorrupt."""

    def at(self, row: int) -> Vector:
        """Return the vector of a row from 0 to len - 1, to be read only. Raises IndexCorrupt."""
        vector: Vector = self[row : row + 1][0]
        return vector

    def blocks(self, rows: Rows = slice(None), *, size: int = ROWS_A_BLOCK) -> Iterator[Vectors]:
        """Yield many vectors in turn, those of these rows, float32 [at most size, 960]. Raises IndexCorrupt.

        Each block is good until the next one is asked for.
        """


@dataclass(frozen=True, slots=True)
class VectorsInMemory(StoredVectors):
    values: Vectors = field(repr=False)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Rows) -> Vectors:
        return self.values[rows]

    def blocks(self, rows: Rows = slice(None), *, size: int = ROWS_A_BLOCK) -> Iterator[Vectors]:
        for part in _parts(rows, len(self), size):
            yield self.values[part.start : part.stop] if isinstance(part, range) else self.values[part]


class VectorFile(StoredVectors):
    """Vectors in a file, read and not mapped.

    A mapping of odd alignment is slow, and it brings in the neighbours of each vector too, until the whole file counts
    as the process's memory. See OpenFile as well.
    """

    def __init__(self, path: Path, *, start: int, count: int) -> None:
        """start: the byte where the first of count vectors begins. Raises OSError."""
        self._file, self._start, self._count = OpenFile(path), start, count

    @property
    def nbytes(self) -> int:
        return 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: Rows) -> Vectors:
        wanted = _selected(rows, len(self))
        vectors = np.empty((len(wanted), DIMENSION), np.float32)
        self._fill(vectors, wanted)
        return vectors

    def blocks(self, rows: Rows = slice(None), *, size: int = ROWS_A_BLOCK) -> Iterator[Vectors]:
        buffer = np.empty((min(size, len(_selected(rows, len(self)))), DIMENSION), np.float32)
        for part in _parts(rows, len(self), size):
            block = buffer[: len(part)]
            self._fill(block, part)
            yield block

    def _fill(self, vectors: Vectors, rows: _Selected) -> None:
        if not len(rows):
            return
        target = vectors.data.cast("B")
        if isinstance(rows, range):
            self._read(target, rows.start)
            return
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)  # of runs, each of which is read at once
        ends = [*starts[1:].tolist(), len(rows)]
        for start, end, row in zip(starts.tolist(), ends, rows[starts].tolist(), strict=True):
            self._read(target[start * _ROW_BYTES : end * _ROW_BYTES], row)

    def _read(self, target: memoryview, row: int) -> None:
        """Fill target with the vectors from this row on."""
        self._file.fill(target, self._start + row * _ROW_BYTES)


class SmallVectorFile(StoredVectors):
    """A file whose vectors are kept in memory once somebody reads many of them.

    lock: makes the first readers share one reading; who reads some sees the file or the memory.
    """

    def __init__(self, file: VectorFile) -> None:
        self._stored: StoredVectors = file
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return len(self) * _ROW_BYTES

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, rows: Rows) -> Vectors:
        return self._stored[rows]

    def blocks(self, rows: Rows = slice(None), *, size: int = ROWS_A_BLOCK) -> Iterator[Vectors]:
        with self._lock:
            if not isinstance(self._stored, VectorsInMemory):
                self._stored = VectorsInMemory(self._stored[:])  # the file is closed with its last reader
        return self._stored.blocks(rows, size=size)


def _selected(rows: Rows, count: int) -> _Selected:
    """Return rows of count as what has a length and can be cut."""
    return range(*rows.indices(count)) if isinstance(rows, slice) else rows


def _parts(rows: Rows, count: int, size: int) -> Iterator[_Selected]:
    selected = _selected(rows, count)
    for start in range(0, len(selected), size):
        yield selected[start : start + size]
