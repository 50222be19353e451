import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt
from search.engine.vectors import DIMENSION
from tests.support.damage import DAMAGES, empty, remove, replace_by_pointer
from tests.support.indexes import (
    COPY,
    FLASK_FILES,
    OUR_FILES,
    flask_directory,
    publish,
    some_records,
    some_vectors,
    write_sums_anew,
)

READ = [name for name in OUR_FILES if name != COPY]
READ_OF_FLASK = [name for name in FLASK_FILES if name != COPY]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READ)
def test_damaged_file_of_ours_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    if name in ("signatures.npy", "perceptual_hashes.npy") and damage is remove:
        damage = empty  # missing, it tells that nobody knows
    publish(tmp_path / "acme", some_records(9), some_vectors(9))
    damage(tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READ_OF_FLASK)
def test_damaged_file_of_the_flask_service_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    if damage is remove and name == "index_info.json":
        damage = empty  # it may be missing
    flask_directory(tmp_path / "acme", some_vectors(9), [f"{n}.png" for n in range(9)])
    damage(tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("count", [0, 8, 10])
@pytest.mark.parametrize("name", READ)
def test_file_of_an_index_of_another_size_is_named(tmp_path: Path, name: str, count: int) -> None:
    publish(tmp_path / "acme", some_records(9), some_vectors(9))
    publish(tmp_path / "other", some_records(count), some_vectors(count))
    shutil.copy(tmp_path / "other" / name, tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("count", [0, 8, 10])
@pytest.mark.parametrize("name", READ_OF_FLASK)
def test_file_of_a_flask_index_of_another_size_is_named(tmp_path: Path, name: str, count: int) -> None:
    flask_directory(tmp_path / "acme", some_vectors(9), [f"{n}.png" for n in range(9)])
    flask_directory(tmp_path / "other", some_vectors(count), [f"{n}.png" for n in range(count)])
    shutil.copy(tmp_path / "other" / name, tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("damage", DAMAGES)
def test_copy_of_the_vectors_is_read_by_nobody_and_compared_with_its_checksum(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    vectors = some_vectors(9)
    publish(tmp_path / "ours", some_records(9), vectors)
    flask_directory(tmp_path / "flask", vectors, [f"{n}.png" for n in range(9)])
    for company in ("ours", "flask"):
        damage(tmp_path / company / COPY)
        index = storage.load(tmp_path / company)
        np.testing.assert_array_equal(index.vectors[:], vectors)
        assert index.search(vectors[4], 1)[0].score == pytest.approx(1, abs=1e-6)
    assert [line.split()[0] for line in storage.damaged_files(tmp_path / "ours")] == [COPY]
    storage.require_undamaged(tmp_path / "ours", copy=False)


@pytest.mark.slow
@pytest.mark.parametrize("length", [0, 45 + 4 * DIMENSION * 17_500 - 1])
def test_large_index_whose_vectors_are_cut_short_in_use_is_corrupt(tmp_path: Path, length: int) -> None:
    """No process would survive that of a mapping."""
    count = 17_500  # 67 MB
    vectors = np.repeat(some_vectors(count // 50), 50, axis=0)
    flask_directory(tmp_path / "acme", vectors, [f"{n}.png" for n in range(count)], without=["embeddings.npy"])
    index = storage.load(tmp_path / "acme")
    assert index.vectors.nbytes == 0
    os.truncate(tmp_path / "acme" / "faiss_index.bin", length)
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin ends before byte \d+"):
        index.search(vectors[0], 10)


def test_small_index_whose_vectors_are_cut_short_is_corrupt_until_it_has_been_searched(tmp_path: Path) -> None:
    vectors = some_vectors(9)
    publish(tmp_path / "acme", some_records(9), vectors)
    searched, unsearched = storage.load(tmp_path / "acme"), storage.load(tmp_path / "acme")
    searched.search(vectors[0], 1)
    os.truncate(tmp_path / "acme" / "faiss_index.bin", 100)
    assert searched.search(vectors[8], 1)[0].image.path == "Abstract/008.png"
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin ends before byte 100"):
        unsearched.search(vectors[8], 1)


@pytest.mark.parametrize("dimension", [1, 512, 1280])
def test_index_of_another_dimension_is_refused(tmp_path: Path, dimension: int) -> None:
    vectors = np.ones((4, dimension), np.float32)
    flask_directory(tmp_path / "acme", vectors, [f"{n}.png" for n in range(4)])
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin.*960"):
        storage.load(tmp_path / "acme")


def test_info_of_another_dimension_is_named(tmp_path: Path) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    flask_directory(tmp_path / "other", np.ones((4, 512), np.float32), list("abcd"))
    shutil.copy(tmp_path / "other" / "index_info.json", tmp_path / "acme" / "index_info.json")
    with pytest.raises(IndexCorrupt, match=r"index_info\.json"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize(
    "make",
    [
        faiss.IndexFlatL2,
        lambda dimension: faiss.IndexHNSWFlat(dimension, 4),
        lambda d: faiss.IndexIDMap2(faiss.IndexFlatIP(d)),
    ],
    ids=["l2", "hnsw", "idmap"],
)
def test_another_kind_of_faiss_index_is_refused(tmp_path: Path, make: Callable[[int], Any]) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    index = make(DIMENSION)
    if isinstance(index, faiss.IndexIDMap2):
        index.add_with_ids(some_vectors(4), np.arange(4))
    else:
        index.add(some_vectors(4))
    faiss.write_index(index, str(tmp_path / "acme" / "faiss_index.bin"))
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("name", READ_OF_FLASK)
def test_git_lfs_pointer_says_to_pull(tmp_path: Path, name: str) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    replace_by_pointer(tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=rf"{name}.*git lfs pull"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize(
    "text", ["null", "[1, 2, 3, 4]", '{"a": 1, "b": 2, "c": 3, "d": 4}', '[{"fullPath": 1, "id": "x"}]']
)
def test_metadata_of_another_shape_is_named(tmp_path: Path, text: str) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    (tmp_path / "acme" / "metadata.json").write_text(text)
    with pytest.raises(IndexCorrupt, match=r"metadata\.json"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("text", ["null", "[]", '"format"', '{"total_images": null}', '{"total_images": "many"}'])
def test_index_info_of_another_shape_is_named(tmp_path: Path, text: str) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    (tmp_path / "acme" / "index_info.json").write_text(text)
    with pytest.raises(IndexCorrupt, match=r"index_info\.json"):
        storage.load(tmp_path / "acme")
    with pytest.raises(IndexCorrupt, match=r"index_info\.json"):
        storage.info(tmp_path / "acme")


@pytest.mark.parametrize("shape", [(0,), (1,), (10, 1), ()])
def test_offsets_of_another_shape_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    publish(tmp_path / "acme", some_records(9), some_vectors(9))
    np.save(tmp_path / "acme" / "metadata_offsets.npy", np.zeros(shape, np.int64))
    with pytest.raises(IndexCorrupt, match=r"metadata_offsets\.npy"):
        storage.load(tmp_path / "acme")


def test_entry_that_is_no_json_is_named_when_it_is_found(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(3), some_vectors(3))
    metadata = tmp_path / "acme" / "metadata.json"
    metadata.write_bytes(metadata.read_bytes().replace(b'"Abstract/001.png"', b"'Abstract/001.png'"))
    write_sums_anew(tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    with pytest.raises(IndexCorrupt, match=r"metadata\.json"):
        index.search(index.vectors.at(1), 1)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_place_without_index_is_not_built(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "acme")
    assert not storage.has_index(tmp_path / "acme")
    assert storage.version(tmp_path / "acme") == ""
    for read in (storage.load, storage.info):
        with pytest.raises(IndexNotBuilt, match="acme"):
            read(tmp_path / "acme")
