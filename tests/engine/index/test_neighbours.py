"""How often a picture's nearest neighbour lies in its own folder."""

from typing import Any

import numpy as np
import pytest

from search.engine.index.neighbours import MAX_FOLDERS, Neighbours, measure_neighbours
from search.engine.index.vector_file import VectorsInMemory
from search.engine.vectors import DIMENSION, Vectors, unit_length
from tests.support.indexes import clustered

NAMES = ["hats", "shoes"]


def directions(*angles: float) -> Vectors:
    """Return unit vectors at these angles, in degrees: the nearer the angles, the nearer the vectors."""
    vectors = np.zeros((len(angles), DIMENSION), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    return vectors


def measure(vectors: Vectors, folders: list[int], names: list[str] = NAMES, ids: Any = None) -> Neighbours | None:
    ids = np.arange(len(folders), dtype=np.uint64) if ids is None else ids
    return measure_neighbours(VectorsInMemory(vectors), folders=np.array(folders, np.int64), names=names, ids=ids)


def test_a_picture_whose_nearest_lies_in_its_folder_counts_and_another_does_not() -> None:
    vectors = directions(0, 1, 50, 51.5, 53)
    found = measure(vectors, [0, 0, 1, 0, 1])  # nearest: 1, 0, the third hat, a shoe, the third hat
    assert found == Neighbours(5, 2, {"hats": (3, 2), "shoes": (2, 0)})
    assert found.percent == 40


def test_a_picture_that_is_alone_in_its_folder_is_not_tried_but_can_be_the_nearest() -> None:
    assert measure(directions(0, 1, 1.5), [0, 0, 1]) == Neighbours(2, 1, {"hats": (2, 1)})


@pytest.mark.parametrize(("folders", "names"), [([], []), ([0, 0, 0], ["hats"]), ([0, 1], NAMES)])
def test_where_there_is_nothing_to_compare_nothing_is_measured(folders: list[int], names: list[str]) -> None:
    assert measure(directions(*range(len(folders))), folders, names) is None


def test_a_copy_in_the_same_folder_counts_whatever_lies_elsewhere() -> None:
    copies = directions(10, 10, 10)
    assert measure(copies, [0, 0, 1]) == Neighbours(2, 2, {"hats": (2, 2)})


def test_what_is_found_block_by_block_is_what_all_products_say() -> None:
    vectors = clustered(2500, seed=1)
    folders = np.random.default_rng(2).integers(40, size=2500)
    ids = np.random.default_rng(3).permutation(2500).astype(np.uint64)
    tried = np.flatnonzero(ids < 1000)
    scores = vectors[tried] @ vectors.T
    scores[np.arange(1000), tried] = -1
    own = int((folders[scores.argmax(axis=1)] == folders[tried]).sum())
    found = measure(vectors, folders.tolist(), [str(number) for number in range(40)], ids)
    assert found is not None
    assert (found.tried, found.own) == (1000, own)
    assert sum(hits for _, hits in found.folders.values()) == own


def test_the_same_pictures_are_tried_again_when_others_have_come() -> None:
    ids = np.random.default_rng(0).permutation(3000).astype(np.uint64)
    vectors = unit_length(np.random.default_rng(1).normal(size=(3000, DIMENSION)).astype(np.float32))
    before = measure(vectors[:2000], [0, 1] * 1000, ids=ids[:2000] * 2)
    after = measure(vectors, [0, 1] * 1000 + [0, 1] * 500, ids=np.concatenate([ids[:2000] * 2, ids[2000:] + 10**6]))
    assert before is not None
    assert after is not None
    assert {name: tried for name, (tried, _) in before.folders.items()} == {
        name: tried for name, (tried, _) in after.folders.items()
    }


def test_no_more_folders_are_kept_than_a_page_can_show() -> None:
    folders = [number // 2 for number in range(2 * 150)] + [149]
    names = [str(number) for number in range(150)]
    found = measure(clustered(len(folders), seed=4), folders, names)
    assert found is not None
    assert len(found.folders) == MAX_FOLDERS
    assert found.folders["149"][0] == 3
    assert found.tried == 301
