"""The fast first pass of a search: compact codes propose candidates, the float vectors decide.

Vectors are rotated at random and kept as 1 bit a number (RaBitQ, Gao and Long, SIGMOD 2024; FAISS's RaBitQFastScan):
120 bytes a picture instead of 3,840. The rotation spreads what a vector says over all its numbers; without it the
bits of a network's non-negative outputs tell little. The codes lie in inverted lists around k-means centres, and a
search scans the lists nearest to the query. How many lists, and how many candidates for each result, is what the
company's own pictures need, see calibration.py: one plan for up to 10 results, one for up to 50. Among the pictures
of a folder all lists are scanned; passing over those outside costs a quarter of scoring them.

A rebuild takes the codes over: those of removed pictures leave the lists, the others get their new rows, and new
pictures are encoded with the same rotation and centres. Once a tenth has changed all are made anew.

Tried and left: codes of 640 or 480 principal components and product quantisers (a scan takes half the time, but needs
hundreds of candidates a result for the same recall), two threads (they share one core's units).
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from search.engine.index.calibration import (
    MANY_NEIGHBOURS,
    NEIGHBOURS,
    Sample,
    find_plans,
    probing,
    rows_by_list,
    spread,
    take_sample,
)
from search.engine.index.records import Rows
from search.engine.index.vector_file import StoredVectors
from search.engine.vectors import DIMENSION, Vector

MIN_IMAGES = 10_000  # below, the exact scan takes a few milliseconds

_SEED = 7
_TRAINING_ROWS = 20_000
_ROWS_A_BLOCK = 16_384
_MAX_CHANGED = 0.1  # of the pictures, since the codes were made anew: the centres no longer fit
_LARGEST_NUMBER = 1.01  # 1, and what rounding adds
_reading = threading.Lock()  # held while FAISS's limit, one for the process, is that of a file


@dataclass(frozen=True, slots=True)
class CoarseSearch:
    """What an index says of its first pass in index_info.json. Earlier releases wrote the first four alone."""

    lists: int
    lists_probed: int  # for up to 10 results
    candidates_per_result: int
    recall_at_10: float  # against the exact scan, over a sample of the company's own pictures
    lists_probed_for_50: int | None = None  # None: all
    candidates_per_result_for_50: int | None = None
    recall_at_50: float | None = None
    changes: int = 0  # pictures added and removed since the codes were made anew


@dataclass(frozen=True, slots=True)
class CoarseIndex:
    """Proposes the rows of the vectors that may be closest. Never changes, so threads share it."""

    codes: Any  # faiss.IndexPreTransform of a rotation and an IndexIVFRaBitQFastScan
    search: CoarseSearch
    nbytes: int
    _rotation: npt.NDArray[np.float32] = field(repr=False)  # [960, 960], of codes: NumPy applies it faster than FAISS
    _rotated: Any = field(repr=False)  # the IndexIVFRaBitQFastScan of codes
    _few: Any = field(repr=False)  # FAISS's parameters: the lists that the recall of 10 was measured with
    _many: Any = field(repr=False)  # those of 50
    _everywhere: Any = field(repr=False)  # and all lists

    def propose(self, vector: Vector, top_k: int) -> npt.NDArray[np.int64]:
        """Return the rows, in order, among which the top_k closest to vector are.

        vector: float32 [960].
        """
        faiss.omp_set_num_threads(1)  # for this thread: requests are served side by side
        lists, count = self._plan(top_k)
        count = min(count, self.codes.ntotal)
        rotated = self._rotation @ vector
        rows = self._scan(rotated, count, lists)
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

    def _plan(self, top_k: int) -> tuple[Any, int]:
        """Return the lists to scan and the number of candidates; what finds 10 finds the first few of them."""
        if top_k <= NEIGHBOURS:
            return self._few, self.search.candidates_per_result * NEIGHBOURS
        for_50 = self.search.candidates_per_result_for_50
        if for_50 and top_k <= MANY_NEIGHBOURS:
            return self._many, for_50 * MANY_NEIGHBOURS
        return self._everywhere, (for_50 or self.search.candidates_per_result) * top_k

    def _scan(self, rotated: Vector, count: int, lists: Any) -> npt.NDArray[np.int64]:
        rows: npt.NDArray[np.int64] = self._rotated.search(rotated[np.newaxis], count, params=lists)[1][0]
        return rows[rows >= 0]


@dataclass(frozen=True, slots=True)
class KeptRows:
    """The codes of the index before, and which of its pictures are still there."""

    coarse: CoarseIndex
    rows: npt.NDArray[np.int64]  # [N], of each picture in the index before; negative where its vector is new


def build_coarse(
    vectors: StoredVectors, *, kept: KeptRows | None = None, beat: Callable[[], None] = lambda: None
) -> CoarseIndex | None:
    """Return the codes of vectors, or None where the exact scan serves better.

    That is where there are few vectors, and where the codes do not find at least MIN_RECALL of the true neighbours.
    kept: what may be taken over. beat is called now and then.
    """
    if len(vectors) < MIN_IMAGES:
        return None
    faiss.omp_set_num_threads(1)  # more gain little time for much work, which others wait for
    sample = take_sample(vectors, beat)
    updated = _updated(kept, vectors, sample, beat) if kept else None
    return updated or _calibrated(_encode(vectors, beat), vectors, sample, beat, changes=0)


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
    _require_rows(lists, images)
    _require_numbers(_rotation_of(codes))
    _require_numbers(lists.quantizer.reconstruct_n(0, lists.nlist))
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


def _require_rows(lists: Any, images: int) -> None:
    """Raise ValueError unless the inverted lists lead to each row once."""
    led_to, count = np.zeros(images, bool), 0
    for rows in rows_by_list(lists):
        if len(rows) and not 0 <= rows.min() <= rows.max() < images:
            raise ValueError(f"it leads to vectors beyond the {images} that there are")
        led_to[rows] = True
        count += len(rows)
    if count != images or not led_to.all():
        raise ValueError(f"it leads {count} times to {np.count_nonzero(led_to)} of {images} vectors")


def _require_numbers(numbers: npt.NDArray[np.float32]) -> None:
    """Raise ValueError unless a rotation, or centres of unit vectors, can have them: with others nothing is found."""
    if not (np.abs(numbers) <= _LARGEST_NUMBER).all():
        raise ValueError("it holds numbers that cannot be")


def _coarse_index(codes: Any, search: CoarseSearch, nbytes: int) -> CoarseIndex:
    return CoarseIndex(
        codes,
        search,
        nbytes,
        _rotation_of(codes),
        faiss.downcast_index(codes.index),
        probing(search.lists_probed),
        probing(search.lists_probed_for_50 or search.lists),
        probing(search.lists),
    )


def _rotation_of(codes: Any) -> npt.NDArray[np.float32]:
    matrix: Any = faiss.downcast_VectorTransform(codes.chain.at(0)).A  # type: ignore[attr-defined]
    rotation: npt.NDArray[np.float32] = faiss.rev_swig_ptr(matrix.data(), matrix.size())  # no copy
    return rotation.reshape(DIMENSION, DIMENSION)


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


def _encode(vectors: StoredVectors, beat: Callable[[], None]) -> Any:
    rotation = faiss.RandomRotationMatrix(DIMENSION, DIMENSION)
    rotation.init(_SEED)
    lists = faiss.index_factory(DIMENSION, f"IVF{_lists(len(vectors))},RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    codes = faiss.IndexPreTransform(rotation, lists)
    rotate = _rotation_of(codes).T
    lists.train(vectors[spread(len(vectors), _TRAINING_ROWS)] @ rotate)
    codes.is_trained = True
    for block in vectors.blocks(size=_ROWS_A_BLOCK):
        lists.add(block @ rotate)
        beat()
    codes.ntotal = lists.ntotal
    return codes


def _updated(kept: KeptRows, vectors: StoredVectors, sample: Sample, beat: Callable[[], None]) -> CoarseIndex | None:
    """Return the kept codes, of these vectors now; None where they are better made anew."""
    before, is_kept = kept.coarse, kept.rows >= 0
    rows_now = np.full(before.codes.ntotal, -1)
    rows_now[kept.rows[is_kept]] = np.flatnonzero(is_kept)  # of several copies the last has the code
    gone = rows_now < 0
    new = np.setdiff1d(np.arange(len(vectors)), rows_now)
    changes = before.search.changes + int(np.count_nonzero(gone)) + len(new)
    if changes > _MAX_CHANGED * len(vectors) or _lists(len(vectors)) != before.search.lists:
        return None
    with _reading:  # at FAISS's own limit
        codes: Any = faiss.deserialize_index(faiss.serialize_index(before.codes))  # others may search those
    lists: Any = faiss.downcast_index(codes.index)
    rotate = _rotation_of(codes).T
    bits = np.packbits(gone, bitorder="little")
    lists.remove_ids(faiss.IDSelectorBitmap(bits))  # type: ignore[call-arg, arg-type]
    _clear_free_places(faiss.downcast_InvertedLists(lists.invlists))
    for rows in rows_by_list(lists):
        rows[:] = rows_now[rows]
    for start in range(0, len(new), _ROWS_A_BLOCK):
        block = new[start : start + _ROWS_A_BLOCK]
        lists.add_with_ids(vectors[block] @ rotate, block)
        beat()
    codes.ntotal = lists.ntotal
    return _calibrated(codes, vectors, sample, beat, changes=changes)


def _clear_free_places(lists: Any) -> None:
    """Overwrite what removed codes left behind the last one of each list: FAISS would mix it into the next ones."""
    nothing = np.zeros(lists.packer.code_size, np.uint8)
    for each in range(lists.nlist):
        size, per_block = lists.list_size(each), lists.n_per_block
        blocks = -(-size // per_block)
        if size % per_block:
            codes = faiss.rev_swig_ptr(lists.get_codes(each), blocks * lists.block_size)
            for place in range(size, blocks * per_block):
                lists.packer.pack_1(nothing, place, codes.reshape(blocks, lists.block_size))


def _calibrated(
    codes: Any, vectors: StoredVectors, sample: Sample, beat: Callable[[], None], *, changes: int
) -> CoarseIndex | None:
    """Return the codes with the plans that find enough, None where there is none."""
    lists: Any = faiss.downcast_index(codes.index)
    few, many = find_plans(lists, _rotation_of(codes), vectors, sample, beat)
    if few is None:
        return None
    search = CoarseSearch(
        lists.nlist, few.lists_probed, few.candidates_per_result, round(few.recall, 4), changes=changes
    )
    if many:
        search = replace(
            search,
            lists_probed_for_50=many.lists_probed,
            candidates_per_result_for_50=many.candidates_per_result,
            recall_at_50=round(many.recall, 4),
        )
    return _coarse_index(codes, search, 0)
