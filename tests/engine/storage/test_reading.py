from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.index.records import ImageRecord
from tests.support.indexes import FLASK_FILES, flask_directory, generations, publish, some_records, some_vectors


@pytest.mark.parametrize(
    "without", [(), ("index_info.json",), ("embeddings.npy",), ("index_info.json", "embeddings.npy")]
)
def test_flask_directory_is_served_as_it_is(tmp_path: Path, without: tuple[str, ...]) -> None:
    vectors = some_vectors(6)
    paths = ["Abstract/Adelaide.png", "top.jpg", "a/b/c.gif", "caf\u00e9.png", "x y.bmp", "z.webp"]
    ids = flask_directory(tmp_path / "acme", vectors, paths, without=without)
    index = storage.load(tmp_path / "acme")
    assert [(record.path, record.id) for record in index.records] == list(zip(paths, ids, strict=True))
    np.testing.assert_array_equal(index.vectors[:], vectors)
    assert index.info.total_images == storage.info(tmp_path / "acme").total_images == 6
    assert index.info.passport is None
    assert index.search(vectors[2], 1)[0].image == ImageRecord("a/b/c.gif", ids[2])
    assert sorted(entry.name for entry in (tmp_path / "acme").iterdir()) == sorted(set(FLASK_FILES) - set(without))


def test_flask_timestamp_is_kept(tmp_path: Path) -> None:
    flask_directory(tmp_path / "acme", some_vectors(1), ["a.png"])
    assert storage.info(tmp_path / "acme").timestamp == "2025-10-27T12:00:00.000Z"


def test_flask_embeddings_before_normalisation_do_not_replace_those_of_faiss(tmp_path: Path) -> None:
    vectors = some_vectors(6)
    flask_directory(tmp_path / "acme", vectors, list("abcdef"), embeddings=vectors * 7)
    index = storage.load(tmp_path / "acme")
    np.testing.assert_array_equal(index.vectors[:], vectors)
    assert index.search(vectors[4], 1)[0].score == pytest.approx(1, abs=1e-6)


def test_flask_directory_becomes_a_generation_at_its_first_publication(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    ids = flask_directory(directory, some_vectors(6), list("abcdef"))
    publish(directory, some_records(3), some_vectors(3))
    assert directory.is_symlink()
    assert list(storage.load(directory).records) == some_records(3)
    before, after = generations(directory)
    assert [record.id for record in storage.load(before).records] == ids
    assert after == directory.resolve()


def test_version_changes_with_every_publication(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    seen = [storage.version(directory)]
    flask_directory(directory, some_vectors(2), list("ab"))
    seen.append(storage.version(directory))
    for _ in range(3):
        publish(directory, some_records(2), some_vectors(2))
        seen.append(storage.version(directory))
    assert len(set(seen)) == 5
    assert storage.version(directory) == seen[-1]
