"""Wherever vectors are kept, in a file of odd alignment or in memory, they are the same."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from search.engine.errors import IndexCorrupt
from search.engine.index.exact import exact_scores, scan
from search.engine.index.records import Rows
from search.engine.index.vector_file import SmallVectorFile, StoredVectors, VectorFile, VectorsInMemory
from search.engine.vectors import DIMENSION, Vectors
from tests.support.indexes import some_vectors

COUNT, START = 700, 45
SELECTIONS: list[Rows] = [
    slice(None),
    slice(0, COUNT),
    slice(3, 4),
    slice(255, 600),
    slice(9, 9),
    np.arange(COUNT),
    np.array([5]),
    np.array([0, 1, 2, 9, 10, 400, 699]),
    np.array([600, 3, 4, 4, 2]),
    np.arange(0, COUNT, 2),
    np.empty(0, np.int64),
]

Store = Callable[[Vectors], StoredVectors]


def file_of(directory: Path, vectors: Vectors) -> VectorFile:
    path = directory / "vectors.bin"
    path.write_bytes(b"x" * START + vectors.tobytes())
    return VectorFile(path, start=START, count=len(vectors))


def small_file_of(directory: Path, vectors: Vectors) -> SmallVectorFile:
    return SmallVectorFile(file_of(directory, vectors))


def scanned_file_of(directory: Path, vectors: Vectors) -> SmallVectorFile:
    small = small_file_of(directory, vectors)
    list(small.blocks())
    return small


def memory_of(directory: Path, vectors: Vectors) -> VectorsInMemory:
    return VectorsInMemory(vectors)


@pytest.fixture(params=[file_of, small_file_of, scanned_file_of, memory_of])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return lambda vectors: request.param(tmp_path, vectors)


@pytest.mark.parametrize("rows", SELECTIONS, ids=str)
def test_rows_come_in_the_order_asked_for(store: Store, rows: Rows) -> None:
    vectors = some_vectors(COUNT)
    found = store(vectors)[rows]
    np.testing.assert_array_equal(found, vectors[rows])
    assert found.flags.aligned
    assert found.flags.c_contiguous


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 256, 699, 700, 5000])
@pytest.mark.parametrize("rows", SELECTIONS, ids=str)
def test_blocks_are_the_rows_in_turn(store: Store, rows: Rows, size: int) -> None:
    vectors = some_vectors(COUNT)
    blocks = [np.array(block) for block in store(vectors).blocks(rows, size=size)]
    assert all(0 < len(block) <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate([np.empty((0, DIMENSION), np.float32), *blocks]), vectors[rows])


@pytest.mark.parametrize("rows", SELECTIONS, ids=str)
def test_a_scan_gives_the_product_of_each_row(store: Store, rows: Rows) -> None:
    vectors, query = some_vectors(COUNT), some_vectors(1, seed=9)[0]
    expected = vectors[rows].astype(np.float64) @ query.astype(np.float64)
    np.testing.assert_allclose(scan(store(vectors), rows, query), expected, atol=1e-6)
    numbers = np.arange(COUNT)[rows]
    np.testing.assert_allclose(exact_scores(store(vectors), numbers, query), expected, atol=1e-6)


def test_a_single_row_is_its_vector(store: Store) -> None:
    vectors = some_vectors(COUNT)
    for row in (0, 300, COUNT - 1):
        np.testing.assert_array_equal(store(vectors).at(row), vectors[row])


def test_what_may_be_in_memory_counts_as_memory(tmp_path: Path) -> None:
    vectors = some_vectors(COUNT)
    for make in (memory_of, small_file_of, scanned_file_of):
        assert make(tmp_path, vectors).nbytes == COUNT * 960 * 4
    assert file_of(tmp_path, vectors).nbytes == 0


def test_a_small_file_is_in_memory_from_the_first_scan_on(tmp_path: Path) -> None:
    vectors = some_vectors(COUNT)
    small = small_file_of(tmp_path, vectors)
    small[np.array([1, 5])]
    assert len(open_descriptors(tmp_path / "vectors.bin")) == 1
    next(small.blocks(slice(3, 5)))
    assert open_descriptors(tmp_path / "vectors.bin") == []
    os.truncate(tmp_path / "vectors.bin", 0)
    np.testing.assert_array_equal(small[np.array([1, 5])], vectors[[1, 5]])


def test_first_scans_of_a_small_file_may_come_at_once(tmp_path: Path) -> None:
    vectors, query = some_vectors(COUNT), some_vectors(1, seed=9)[0]
    expected = scan(VectorsInMemory(vectors), slice(None), query)
    small, arrived = small_file_of(tmp_path, vectors), threading.Barrier(8)

    def read(row: int) -> bool:
        arrived.wait(30)
        one = small.at(row)
        return np.array_equal(scan(small, slice(None), query), expected) and np.array_equal(one, vectors[row])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_many_threads_read_one_file(tmp_path: Path) -> None:
    vectors = some_vectors(COUNT)
    file = file_of(tmp_path, vectors)

    def read(row: int) -> bool:
        rows = np.array([row, COUNT - 1 - row])
        return np.array_equal(file[rows], vectors[rows]) and len(list(file.blocks(size=100))) == 7

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(COUNT)))


def test_a_removed_file_is_read_on(tmp_path: Path) -> None:
    vectors = some_vectors(COUNT)
    file = file_of(tmp_path, vectors)
    (tmp_path / "vectors.bin").unlink()
    np.testing.assert_array_equal(file[:], vectors)


def test_a_file_cut_short_is_named_with_the_place(tmp_path: Path) -> None:
    file = file_of(tmp_path, some_vectors(COUNT))
    os.truncate(tmp_path / "vectors.bin", START + 300 * DIMENSION * 4 + 7)
    assert len(file[:300]) == 300
    for read in (lambda: file[:], lambda: file[np.array([1, 2, 300])], lambda: list(file.blocks())):
        with pytest.raises(IndexCorrupt, match=rf"^vectors\.bin ends before byte {START + 300 * DIMENSION * 4 + 7}$"):
            read()


def test_what_is_no_file_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "vectors.bin").mkdir()
    with pytest.raises(IsADirectoryError):
        VectorFile(tmp_path / "vectors.bin", start=START, count=COUNT)


def test_files_are_closed_with_the_last_who_reads_them(tmp_path: Path) -> None:
    file = file_of(tmp_path, some_vectors(9))
    assert len(open_descriptors(tmp_path / "vectors.bin")) == 1
    del file
    assert open_descriptors(tmp_path / "vectors.bin") == []


def open_descriptors(file: Path) -> list[str]:
    links = {link.name: link.resolve() for link in Path("/proc/self/fd").iterdir()}
    return [name for name, target in links.items() if target == file]
