"""The pictures of an index, as of now, that are compared with one another."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord, id_key
from search.engine.pictures.hashes import BLANK
from search.engine.vectors import DIMENSION, Vectors

Places = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Sketches = npt.NDArray[np.float32]  # [N, 4]

_ROWS_A_BLOCK = 4096
_SAME_SKETCH = 1e-3  # of each number: 100 times what libraries differ by, a hundredth of what pictures do
_DIRECTIONS = np.random.default_rng(0).standard_normal((DIMENSION, 4)).astype(np.float32)


def sketch(vectors: Vectors) -> Sketches:
    """Return four numbers for each vector, the same ones for the same vector, wherever it stands."""
    made: Sketches = np.einsum("ij,jk->ik", vectors, _DIRECTIONS)  # not by BLAS, see exact_products
    return made


def same_sketches(ones: Sketches, others: Sketches) -> npt.NDArray[np.bool_]:
    """Return of which pairs both are of the same vector, [N]."""
    return np.asarray((np.abs(ones - others) <= _SAME_SKETCH).all(axis=1))


@dataclass(frozen=True, slots=True)
class Compared:
    """Pictures by number, from 0 on: those of the rows, in order, then the live ones. None is blank, gone, or twice."""

    index: ImageIndex
    places: Places  # [N], of each: its row, or behind the rows its place among the live ones; ascending
    keys: Keys = field(repr=False)  # [N], id_key of each
    hashes: Keys | None = field(repr=False)  # [N], perceptual ones; None where nobody knows those of the rows

    def __len__(self) -> int:
        return len(self.places)

    def vectors(self, numbers: Places) -> Vectors:
        """Return the vectors of some pictures, float32 [numbers, 960]. Raises IndexCorrupt."""
        places, rows = self.places[numbers], len(self.index.records)
        built = places < rows
        if built.all():
            return self.index.vectors[places]
        vectors = np.empty((len(places), DIMENSION), np.float32)
        vectors[built] = self.index.vectors[places[built]]
        vectors[~built] = self.index.added_vectors[places[~built] - rows]
        return vectors

    def blocks(self, size: int = _ROWS_A_BLOCK) -> Iterator[tuple[Places, Vectors]]:
        """Yield the numbers of all pictures, and their vectors, block by block."""
        for start in range(0, len(self), size):
            numbers = np.arange(start, min(start + size, len(self)))
            yield numbers, self.vectors(numbers)

    def sketches(self, beat: Callable[[], None] = lambda: None) -> Sketches:
        made = np.empty((len(self), 4), np.float32)
        for numbers, vectors in self.blocks():
            made[numbers] = sketch(vectors)
            beat()
        return made

    def contents(self) -> npt.NDArray[np.uint8]:
        """Return the SHA-256 of each picture's file, uint8 [N, 32]: zeros where it is not known."""
        contents = np.zeros((len(self), 32), np.uint8)
        if self.index.signatures is not None:
            built = self.places < len(self.index.records)
            contents[built] = self.index.signatures["sha256"][self.places[built]]
        return contents

    def file_sizes(self) -> npt.NDArray[np.int64]:
        """Return the bytes of each picture's file, [N]: 0 where they are not known."""
        sizes = np.zeros(len(self), np.int64)
        if self.index.signatures is not None:
            built = self.places < len(self.index.records)
            sizes[built] = self.index.signatures["size"][self.places[built]]
        return sizes

    def records(self, numbers: Places) -> list[ImageRecord]:
        places, rows = self.places[numbers].tolist(), len(self.index.records)
        built = iter(self.index.records.of_rows([place for place in places if place < rows]))
        return [next(built) if place < rows else self.index.added[place - rows] for place in places]

    def among(self, keys: Collection[int] | Keys) -> "Compared":
        """Return those of the pictures whose keys are among these."""
        wanted = np.isin(self.keys, np.asarray(list(keys) if not isinstance(keys, np.ndarray) else keys, np.uint64))
        hashes = None if self.hashes is None else self.hashes[wanted]
        return replace(self, places=self.places[wanted], keys=self.keys[wanted], hashes=hashes)


def compared(index: ImageIndex) -> Compared:
    """Return the pictures of index, as of now, that can be compared. Raises IndexCorrupt."""
    rows = np.delete(np.arange(len(index.records)), index.hidden)
    live = np.arange(len(index.added)) + len(index.records)
    live_keys = np.array([id_key(record.id) for record in index.added], np.uint64)
    places, keys = np.concatenate([rows, live]), np.concatenate([index.records.id_keys()[rows], live_keys])
    hashes: Keys | None = None
    wanted = np.zeros(len(places), bool)
    wanted[np.unique(keys, return_index=True)[1]] = True
    if index.hashes is not None or not len(index.records):
        built = index.hashes[rows] if index.hashes is not None else np.empty(0, np.uint64)
        hashes = np.concatenate([built, index.added_hashes])
        wanted &= hashes != BLANK
        hashes = hashes[wanted]
    return Compared(index, places[wanted], keys[wanted], hashes)
