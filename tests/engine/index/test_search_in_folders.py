"""Searches in folders of an index with codes find what a scan of the folder finds."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.index import calibration, coarse
from search.engine.index.index import ImageIndex, IndexInfo, LiveImage
from search.engine.index.match import Match
from search.engine.index.records import ImageRecord, Rows, image_id
from search.engine.index.vector_file import ROWS_A_BLOCK, StoredVectors
from search.engine.vectors import DIMENSION, Vector, Vectors, unit_length
from tests.support.indexes import by_link

PICTURES = 3_000
LARGE = 2_500  # pictures in a folder that is searched by the codes, for up to 10 results


def pictures_of_things(count: int, *, seed: int) -> Vectors:
    """Return unit vectors around 20 centres that differ in few ways, as those of photographs do."""
    shared = np.random.default_rng(0)
    centres, axes = shared.standard_normal((20, 30)), shared.standard_normal((30, DIMENSION))
    rng = np.random.default_rng(seed)
    places = centres[rng.integers(20, size=count)] + 0.6 * rng.standard_normal((count, 30))
    return unit_length((places @ axes).astype(np.float32))


QUERIES = pictures_of_things(4, seed=2)


@dataclass(frozen=True, slots=True)
class Counted(StoredVectors):
    """Vectors that note how many of them are read."""

    vectors: StoredVectors
    rows_read: list[int] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return self.vectors.nbytes

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Rows) -> Vectors:
        found = self.vectors[rows]
        self.rows_read.append(len(found))
        return found

    def blocks(self, rows: Rows = slice(None), *, size: int = ROWS_A_BLOCK) -> Iterator[Vectors]:
        for block in self.vectors.blocks(rows, size=size):
            self.rows_read.append(len(block))
            yield block


def publish(directory: Path, vectors: Vectors, folders: Sequence[str]) -> ImageIndex:
    """Return an index with codes of pictures that are named by their rows; folders, one for each, are in order."""
    records = [ImageRecord(f"{folder}/{row:05}.png", image_id("acme", str(row))) for row, folder in enumerate(folders)]
    with pytest.MonkeyPatch.context() as patch, storage.IndexWriter(directory) as writer:
        patch.setattr(coarse, "MIN_IMAGES", 1_000)
        patch.setattr(calibration, "_QUERIES", 20)
        writer.add(vectors, records)
        writer.publish(IndexInfo(0), by_link(directory))
    index = storage.load(directory)
    assert index.coarse is not None
    return index


def alike_side_by_side(vectors: Vectors) -> Vectors:
    return vectors[np.argsort(np.argmax(vectors @ vectors[:20].T, axis=1), kind="stable")]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    """Return an index whose folder far holds nothing like its folder near."""
    vectors = alike_side_by_side(pictures_of_things(PICTURES, seed=1))
    folders = ["far/a"] * 1_000 + ["far/b"] * (LARGE - 1_000) + ["near"] * (PICTURES - LARGE)
    return publish(tmp_path_factory.mktemp("folders") / "acme", vectors, folders)


def scanned(index: ImageIndex, query: Vector, top_k: int, location: str, **filters: float | str) -> list[Match]:
    """Return what the index finds without its codes."""
    return replace(index, coarse=None).search(query, top_k, location=location, **filters)  # type: ignore[arg-type]


def vectors_read(index: ImageIndex, query: Vector, top_k: int, location: str) -> int:
    counted = Counted(index.vectors)
    replace(index, vectors=counted).search(query, top_k, location=location)
    return sum(counted.rows_read)


@pytest.mark.parametrize("location", ["far", "far/a", "far/b", "near"])
@pytest.mark.parametrize("top_k", [1, 10, 50, 500])
def test_a_folder_gives_what_a_scan_of_it_gives(index: ImageIndex, location: str, top_k: int) -> None:
    inside, elsewhere = index.vectors.at(700), index.vectors.at(PICTURES - 1)
    for query in (*QUERIES, inside, elsewhere):
        assert index.search(query, top_k, location=location) == scanned(index, query, top_k, location)


@pytest.mark.parametrize("top_k", [1, 10])
def test_of_a_large_folder_few_vectors_are_read(index: ImageIndex, top_k: int) -> None:
    for query in (*QUERIES, index.vectors.at(PICTURES - 1)):
        assert vectors_read(index, query, top_k, "far") < LARGE / 10


def test_of_a_small_folder_each_vector_is_read_but_no_other(index: ImageIndex) -> None:
    counted = Counted(index.vectors)
    replace(index, vectors=counted).search(QUERIES[0], 10, location="near")
    small = PICTURES - LARGE
    assert small <= sum(counted.rows_read) <= small + 2 * 10


def test_a_folder_without_pictures_gives_none(index: ImageIndex) -> None:
    assert index.search(QUERIES[0], 10, location="nowhere") == []


@pytest.mark.parametrize("deleted", [30, 600])
def test_deleted_pictures_leave_a_folder_s_results_full(index: ImageIndex, deleted: int) -> None:
    best = [match.image for match in scanned(index, QUERIES[0], LARGE, "far")]
    changed = index.with_changes([LiveImage(image, None) for image in best[:deleted]])
    matches = changed.search(QUERIES[0], 10, location="far")
    assert [match.image for match in matches] == best[deleted : deleted + 10]


def test_pictures_put_since_the_build_are_found_in_their_folder_alone(index: ImageIndex) -> None:
    query = QUERIES[0]
    best = scanned(index, query, 10, "far")
    new = [ImageRecord(path, image_id("acme", path)) for path in ("far/new.png", "near/new.png")]
    replaced = LiveImage(best[0].image, index.vectors.at(PICTURES - 1))
    changed = index.with_changes([replaced, *(LiveImage(record, query) for record in new)])
    found = changed.search(query, 10, location="far")
    assert [match.image for match in found] == [new[0], *(match.image for match in best[1:])]
    assert found[0].score == 1


def test_a_folder_s_results_can_be_limited_further(index: ImageIndex) -> None:
    query = QUERIES[0]
    best = scanned(index, query, 11, "far")
    assert index.search(query, 10, location="far", without_ids={best[3].image.id}) == best[:3] + best[4:]
    assert index.search(query, 10, location="far", min_score=best[4].score) == best[:5]


def test_pictures_that_the_codes_cannot_tell_apart_are_found_by_a_scan(tmp_path: Path) -> None:
    """Far from the query and equally far, and much like nothing: the codes err by more than what makes the order."""
    query = np.zeros(DIMENSION, np.float32)
    query[0] = 1
    vectors = pictures_of_things(PICTURES, seed=1)
    vectors[:, 0] = np.random.default_rng(5).uniform(0.010, 0.011, PICTURES)
    index = publish(tmp_path / "acme", unit_length(vectors), ["far"] * LARGE + ["near"] * (PICTURES - LARGE))
    assert index.search(query, 10, location="far") == scanned(index, query, 10, "far")
    assert vectors_read(index, query, 10, "far") < 2 * LARGE


@pytest.mark.slow
def test_a_second_try_comes_before_a_scan(tmp_path: Path) -> None:
    pictures = 12_000
    vectors = alike_side_by_side(pictures_of_things(pictures, seed=1))
    index = publish(tmp_path / "acme", vectors, ["a"] * (pictures // 20) + ["b"] * (pictures - pictures // 20))
    for query in QUERIES:
        best = [match.image for match in scanned(index, query, 201, "b")]
        changed = index.with_changes([LiveImage(image, None) for image in best[:200]])
        assert [match.image for match in changed.search(query, 1, location="b")] == best[200:]
        assert vectors_read(changed, query, 1, "b") < pictures / 10


def test_copies_in_a_folder_are_all_as_good(tmp_path: Path) -> None:
    vectors = np.repeat(pictures_of_things(PICTURES // 50, seed=1), 50, axis=0)
    index = publish(tmp_path / "acme", vectors, ["all"] * PICTURES)
    query = QUERIES[0]
    found, expected = (find(query, 10, location="all") for find in (index.search, replace(index, coarse=None).search))
    assert [match.score for match in found] == [match.score for match in expected]


def test_a_folder_written_in_two_ways_is_searched_as_one(tmp_path: Path) -> None:
    name = "caf\u00e9"
    apart = unicodedata.normalize("NFD", name)
    folders = [apart] * 1_500 + ["cafz"] * 300 + [name] * (PICTURES - 1_800)
    index = publish(tmp_path / "acme", alike_side_by_side(pictures_of_things(PICTURES, seed=1)), folders)
    for query in (*QUERIES, index.vectors.at(1_700)):
        found = index.search(query, 10, location=name)
        assert found == scanned(index, query, 10, name)
        assert {unicodedata.normalize("NFC", match.image.location) for match in found} == {name}
        assert vectors_read(index, query, 10, name) < PICTURES / 10
