from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.engine import storage
from search.engine.build.republish import agreement, same_model, take_over
from search.engine.errors import IndexCorrupt, IndexNotBuilt, NothingToIndex, PublishRefused
from search.engine.model.passport import ModelPassport
from search.engine.model.transform import Pixels
from search.engine.vectors import DIMENSION, Vectors
from tests.conftest import paint
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import FLASK_FILES, by_link, flask_directory, publish, some_records, some_vectors

PASSPORT = ModelPassport("known-weights", "b" * 64)
PATHS = ["z.png", "Abstract/Adelaide.png", "Abstract.png", "caf\u00e9/\U0001f600.jpg"]


def vectors_of_colours(colours: list[tuple[int, int, int]]) -> Vectors:
    embedder = FakeEmbedder()
    return embedder.embed([embedder.prepare(Image.new("RGB", (8, 8), colour)) for colour in colours])


def test_pictures_keep_their_ids_and_vectors(tmp_path: Path) -> None:
    vectors = some_vectors(4)
    ids = flask_directory(tmp_path / "flask", vectors, PATHS)
    assert (
        take_over(
            tmp_path / "flask", tmp_path / "acme", passport=PASSPORT, move=False, publish=by_link(tmp_path / "acme")
        )
        == 4
    )
    index = storage.load(tmp_path / "acme")
    assert {record.path: record.id for record in index.records} == dict(zip(PATHS, ids, strict=True))
    for path, vector in zip(PATHS, vectors, strict=True):
        (row,) = index.records.rows_of_path(path)
        np.testing.assert_allclose(index.vectors.at(row), vector, atol=1e-7)
    assert index.info.passport == PASSPORT


def test_what_is_taken_over_stays_where_it_was(tmp_path: Path) -> None:
    flask_directory(tmp_path / "flask", some_vectors(4), PATHS)
    before = {name: (tmp_path / "flask" / name).read_bytes() for name in FLASK_FILES}
    take_over(tmp_path / "flask", tmp_path / "acme", passport=None, move=False, publish=by_link(tmp_path / "acme"))
    assert {file.name: file.read_bytes() for file in (tmp_path / "flask").iterdir()} == before
    assert storage.load(tmp_path / "acme").info.passport is None


def test_thousands_of_pictures_are_taken_over(tmp_path: Path) -> None:
    vectors, paths = some_vectors(2500), [f"{row:04}.png" for row in range(2500)]
    flask_directory(tmp_path / "flask", vectors, paths)
    take_over(tmp_path / "flask", tmp_path / "acme", passport=None, move=False, publish=by_link(tmp_path / "acme"))
    index = storage.load(tmp_path / "acme")
    assert [record.path for record in index.records] == paths
    np.testing.assert_allclose(index.vectors[:], vectors, atol=1e-7)


def test_vectors_of_another_length_become_unit_vectors(tmp_path: Path) -> None:
    vectors = some_vectors(3)
    flask_directory(tmp_path / "flask", vectors * np.float32([[2], [0.1], [30]]), list("abc"))
    take_over(tmp_path / "flask", tmp_path / "acme", passport=None, move=False, publish=by_link(tmp_path / "acme"))
    np.testing.assert_allclose(storage.load(tmp_path / "acme").vectors[:], vectors, atol=1e-6)


def test_path_that_stands_twice_is_taken_over_once(tmp_path: Path) -> None:
    ids = flask_directory(tmp_path / "flask", some_vectors(3), ["a.png", "b.png", "a.png"])
    assert (
        take_over(tmp_path / "flask", tmp_path / "acme", passport=None, move=False, publish=by_link(tmp_path / "acme"))
        == 2
    )
    assert [record.id for record in storage.load(tmp_path / "acme").records] == ids[:2]


def test_moved_directory_is_gone(tmp_path: Path) -> None:
    flask_directory(tmp_path / "flask", some_vectors(4), PATHS)
    take_over(tmp_path / "flask", tmp_path / "acme", passport=None, move=True, publish=by_link(tmp_path / "acme"))
    assert not (tmp_path / "flask").exists()
    assert len(storage.load(tmp_path / "acme")) == 4


def test_move_leaves_what_is_no_part_of_the_index(tmp_path: Path) -> None:
    flask_directory(tmp_path / "photos", some_vectors(4), PATHS)
    paint(tmp_path / "photos" / "Abstract" / "Adelaide.png", RED)
    take_over(tmp_path / "photos", tmp_path / "acme", passport=None, move=True, publish=by_link(tmp_path / "acme"))
    assert [file.name for file in (tmp_path / "photos").rglob("*") if file.is_file()] == ["Adelaide.png"]


def test_move_of_a_link_removes_the_link_and_the_index(tmp_path: Path) -> None:
    flask_directory(tmp_path / "far" / "flask", some_vectors(4), PATHS)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "flask")
    take_over(tmp_path / "link", tmp_path / "acme", passport=None, move=True, publish=by_link(tmp_path / "acme"))
    assert not (tmp_path / "link").is_symlink()
    assert not (tmp_path / "far" / "flask").exists()
    assert len(storage.load(tmp_path / "acme")) == 4


@pytest.mark.parametrize("move", [False, True])
def test_index_is_taken_over_in_its_place(tmp_path: Path, move: bool) -> None:
    ids = flask_directory(tmp_path / "acme", some_vectors(4), PATHS)
    take_over(tmp_path / "acme", tmp_path / "acme", passport=PASSPORT, move=move, publish=by_link(tmp_path / "acme"))
    index = storage.load(tmp_path / "acme")
    assert {record.id for record in index.records} == set(ids)
    assert index.info.passport == PASSPORT
    before = sorted((tmp_path / ".generations" / "acme").glob("1970*"))
    assert [record.id for record in storage.load(before[0]).records] == ids


def test_one_of_our_own_indexes_is_taken_over(tmp_path: Path) -> None:
    for count in (3, 5):
        publish(tmp_path / "one", some_records(count), some_vectors(count))
    take_over(tmp_path / "one", tmp_path / "other", passport=PASSPORT, move=True, publish=by_link(tmp_path / "other"))
    assert list(storage.load(tmp_path / "other").records) == some_records(5)
    assert not storage.has_index(tmp_path / "one")


def test_broken_index_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    flask_directory(tmp_path / "flask", some_vectors(4), PATHS)
    (tmp_path / "flask" / "metadata.json").write_text("[]")
    with pytest.raises(IndexCorrupt, match=r"metadata\.json"):
        take_over(tmp_path / "flask", tmp_path / "acme", passport=None, move=True, publish=by_link(tmp_path / "acme"))
    with pytest.raises(IndexNotBuilt):
        take_over(tmp_path / "nothing", tmp_path / "acme", passport=None, move=True, publish=by_link(tmp_path / "acme"))
    assert not (tmp_path / "acme").exists()
    assert (tmp_path / "flask" / "faiss_index.bin").exists()


def test_folder_of_other_things_is_no_target(tmp_path: Path) -> None:
    flask_directory(tmp_path / "flask", some_vectors(4), PATHS)
    paint(tmp_path / "acme" / "picture.png", RED)
    with pytest.raises(PublishRefused, match=r"picture\.png"):
        take_over(tmp_path / "flask", tmp_path / "acme", passport=None, move=True, publish=by_link(tmp_path / "acme"))
    assert (tmp_path / "flask" / "faiss_index.bin").exists()


# Which model made it ------------------------------------------------------------------------------------------------


class OtherEmbedder(FakeEmbedder):
    """Sees the colours the other way round."""

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        vectors = super().embed([pixels[::-1] for pixels in batch])
        return np.ascontiguousarray(vectors[:, ::-1])


def colourful_index(tmp_path: Path, *, scale: float = 1) -> Path:
    """Make a Flask index of three pictures that lie in images/."""
    colours = {"red.png": RED, "sub/green.png": GREEN, "sub/deep/blue.png": BLUE}
    for path, colour in colours.items():
        paint(tmp_path / "images" / path, colour)
    flask_directory(tmp_path / "flask", vectors_of_colours(list(colours.values())) * np.float32(scale), list(colours))
    return tmp_path / "flask"


@pytest.mark.parametrize("scale", [1, 12])
def test_vectors_of_the_same_model_agree_and_those_of_another_do_not(tmp_path: Path, scale: float) -> None:
    index = storage.load(colourful_index(tmp_path, scale=scale))
    same, other = agreement(index, tmp_path / "images", [FakeEmbedder(), OtherEmbedder()], max_pixels=64)
    assert same == pytest.approx(1, abs=1e-5)
    assert same_model(same)
    assert other < 0.5
    assert not same_model(other)


def test_a_few_changed_pictures_do_not_hide_the_model(tmp_path: Path) -> None:
    index = storage.load(colourful_index(tmp_path))
    paint(tmp_path / "images" / "red.png", BLUE)
    assert same_model(agreement(index, tmp_path / "images", [FakeEmbedder()], max_pixels=64)[0])


def test_missing_and_unreadable_pictures_are_passed_over(tmp_path: Path) -> None:
    index = storage.load(colourful_index(tmp_path))
    (tmp_path / "images" / "red.png").unlink()
    (tmp_path / "images" / "sub" / "green.png").write_bytes(b"broken")
    assert same_model(agreement(index, tmp_path / "images", [FakeEmbedder()], max_pixels=64)[0])


def test_wrong_folder_of_pictures_is_refused(tmp_path: Path) -> None:
    index = storage.load(colourful_index(tmp_path))
    with pytest.raises(NothingToIndex, match="check the folder"):
        agreement(index, tmp_path / "elsewhere", [FakeEmbedder()], max_pixels=64)


def test_pictures_outside_the_folder_are_never_opened(tmp_path: Path) -> None:
    flask_directory(tmp_path / "flask", vectors_of_colours([RED]), ["../secret.png"])
    paint(tmp_path / "secret.png", RED)
    (tmp_path / "images").mkdir()
    with pytest.raises(NothingToIndex):
        agreement(storage.load(tmp_path / "flask"), tmp_path / "images", [FakeEmbedder()], max_pixels=64)


@pytest.mark.parametrize(("cosine", "same"), [(1, True), (0.99, True), (0.9899, False), (0, False), (-1, False)])
def test_a_cosine_of_at_least_99_hundredths_is_the_same_model(cosine: float, same: bool) -> None:
    assert same_model(cosine) is same


def test_a_zero_vector_agrees_with_nothing(tmp_path: Path) -> None:
    paint(tmp_path / "images" / "red.png", RED)
    flask_directory(tmp_path / "flask", np.zeros((1, DIMENSION), np.float32), ["red.png"])
    cosine = agreement(storage.load(tmp_path / "flask"), tmp_path / "images", [FakeEmbedder()], max_pixels=64)[0]
    assert cosine == 0
